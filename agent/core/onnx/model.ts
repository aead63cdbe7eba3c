/**
 * A model in memory: plain data, no protobuf types. `codec.ts` makes it from ONNX bytes and back; every pass (fold, slice,
 * quantize) is a function from `Model` to `Model` that shares the tensors it does not change.
 */

/** Element types we can hold. Anything else in a file is an error when a pass needs its values, never before. */
export type ElementType =
  | 'float32'
  | 'float64'
  | 'float16'
  | 'bfloat16'
  | 'int8'
  | 'uint8'
  | 'int16'
  | 'uint16'
  | 'int32'
  | 'uint32'
  | 'int64'
  | 'uint64'
  | 'bool'
  | 'string'
  | 'int4'
  | 'uint4'
  | 'other';

/** A constant tensor. `bytes` is little-endian ONNX raw data and is a view of the file wherever possible: never write to it. */
export interface Tensor {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly bytes: Uint8Array;
  /** Protobuf fields this program does not know, and the values of 'string' and 'other' tensors; written back unchanged. */
  readonly unknown?: unknown;
}

/** The value of a node's attribute, by kind. */
export type AttributeValue = AttributeContent & {
  /** Protobuf fields this program does not know; written back unchanged. */
  readonly unknown?: unknown;
};

/** Integers beyond 2^53 - 1 (such as INT64_MAX, "to the end", in Slice) saturate there. */
type AttributeContent =
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'int'; readonly value: number }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'floats'; readonly value: readonly number[] }
  | { readonly kind: 'ints'; readonly value: readonly number[] }
  | { readonly kind: 'strings'; readonly value: readonly string[] }
  | { readonly kind: 'tensor'; readonly value: Tensor }
  /** Subgraphs, sparse tensors and whatever else: kept as encoded bytes, written back unchanged. */
  | { readonly kind: 'opaque'; readonly value: unknown };

/** One occurrence of an operator. An omitted optional input or output is the empty string. */
export interface Node {
  readonly name: string;
  readonly op: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, AttributeValue>;
  /** Tensors of this graph that the node's subgraphs (If, Loop, Scan) read by name; absent where there are none. */
  readonly captures?: readonly string[];
  /** Protobuf fields this program does not know; written back unchanged. */
  readonly unknown?: unknown;
}

/** A graph input or output, or the declared type of a tensor in between. `null` is a dimension without a value. */
export interface ValueInfo {
  readonly name: string;
  readonly type: ElementType;
  /** null: no shape declared at all. */
  readonly shape: readonly (number | string | null)[] | null;
  readonly unknown?: unknown;
}

/** The main graph of a model; subgraphs of its nodes stay encoded. */
export interface Graph {
  readonly name: string;
  /** In topological order after `codec.decode`. */
  readonly nodes: readonly Node[];
  readonly initializers: ReadonlyMap<string, Tensor>;
  /** As in the file: an input that is also an initializer is an overridable constant. */
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly valueInfo: ReadonlyMap<string, ValueInfo>;
  readonly unknown?: unknown;
}

/** A whole model. Versions of the operator sets decide what its nodes mean. */
export interface Model {
  readonly irVersion: number;
  /** Operator set version by domain; the default domain is ''. */
  readonly opsets: ReadonlyMap<string, number>;
  readonly producer: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly graph: Graph;
  /** Functions, training info and unknown fields; written back unchanged. */
  readonly unknown?: unknown;
}

/** Fixed shape of every tensor, by name, for one batch (dynamic batch = 1). Tensors that could not be inferred are absent. */
export type Shapes = ReadonlyMap<string, readonly number[]>;

/**
 * One operator as the planner sees it: a node with the activation function that runtimes fuse into it, or a small pattern
 * (Sigmoid + Mul = SiLU) that runs as one thing. Operators partition the nodes of a folded graph, in topological order.
 */
export interface Operator {
  /** Unique; the name of its first node. */
  readonly name: string;
  /** 'Conv', 'Gemm', 'MatMul', 'Add', 'Concat', 'MaxPool', 'Silu', 'HardSwish', ...; an unknown operator keeps its own type. */
  readonly op: string;
  readonly nodes: readonly Node[];
  /** The activation fused at the end, as bounds: Relu is [0, Infinity], Relu6/Clip [0, 6]; also of a Relu or Clip alone. null: none. */
  readonly clamp: readonly [number, number] | null;
  /** Activation tensors read (constants excluded), without repeats, in order of first use. */
  readonly inputs: readonly string[];
  /** Activation tensors produced that anything reads, the first one always; all but Split and unknown operators have exactly one. */
  readonly outputs: readonly string[];
  /** Constant weight of Conv / Gemm / MatMul / ConvTranspose: initializer name, and the axis of its output channels. */
  readonly weight: { readonly name: string; readonly channelAxis: number } | null;
  /** Initializer name of the bias, of one value per output channel. */
  readonly bias: string | null;
  /**
   * 'weighted': multiplies by a constant weight. 'arithmetic': computes new values (Add, Mul, pools, activations).
   * 'passThrough': moves values without changing them (Reshape, Transpose, Slice, MaxPool, nearest Resize, ...).
   * 'float': stays float whatever the plan (Softmax at the edge, unknown operators, dynamic shapes).
   */
  readonly kind: 'weighted' | 'arithmetic' | 'passThrough' | 'float';
  readonly macs: number;
  readonly parameters: number;
  /** Canonical signature without precision: op, shapes, attributes, fused activation. Equal keys cost the same. */
  readonly key: string;
}
