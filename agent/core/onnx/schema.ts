import protobuf from 'protobufjs/light.js';

/**
 * The part of the ONNX protobuf schema (onnx.proto, field numbers stable since IR version 3) that Quantd reads. Everything else in
 * a file is an unknown field, which the library keeps as raw bytes in `$unknowns` and writes back.
 *
 * Subgraphs (`g`, `graphs`) are declared as bytes, which is the same on the wire: decoding a model then never recurses into them,
 * however deep a hostile file nests, and they are written back byte for byte.
 */
const fields = {
  ModelProto: {
    irVersion: [1, 'int64'],
    producerName: [2, 'string'],
    graph: [7, 'GraphProto'],
    opsetImport: [8, 'OperatorSetIdProto', 'repeated'],
    metadataProps: [14, 'StringStringEntryProto', 'repeated'],
  },
  OperatorSetIdProto: { domain: [1, 'string'], version: [2, 'int64'] },
  StringStringEntryProto: { key: [1, 'string'], value: [2, 'string'] },
  GraphProto: {
    node: [1, 'NodeProto', 'repeated'],
    name: [2, 'string'],
    initializer: [5, 'TensorProto', 'repeated'],
    input: [11, 'ValueInfoProto', 'repeated'],
    output: [12, 'ValueInfoProto', 'repeated'],
    valueInfo: [13, 'ValueInfoProto', 'repeated'],
    sparseInitializer: [15, 'bytes', 'repeated'],
  },
  NodeProto: {
    input: [1, 'string', 'repeated'],
    output: [2, 'string', 'repeated'],
    name: [3, 'string'],
    opType: [4, 'string'],
    attribute: [5, 'AttributeProto', 'repeated'],
    domain: [7, 'string'],
  },
  AttributeProto: {
    name: [1, 'string'],
    f: [2, 'float'],
    i: [3, 'int64'],
    s: [4, 'bytes'],
    t: [5, 'TensorProto'],
    g: [6, 'bytes'],
    floats: [7, 'float', 'repeated'],
    ints: [8, 'int64', 'repeated'],
    strings: [9, 'bytes', 'repeated'],
    graphs: [11, 'bytes', 'repeated'],
    type: [20, 'int32'],
  },
  TensorProto: {
    dims: [1, 'int64', 'repeated'],
    dataType: [2, 'int32'],
    floatData: [4, 'float', 'packed'],
    int32Data: [5, 'int32', 'packed'],
    stringData: [6, 'bytes', 'repeated'],
    int64Data: [7, 'int64', 'packed'],
    name: [8, 'string'],
    rawData: [9, 'bytes'],
    doubleData: [10, 'double', 'packed'],
    uint64Data: [11, 'uint64', 'packed'],
    externalData: [13, 'StringStringEntryProto', 'repeated'],
    dataLocation: [14, 'int32'],
  },
  ValueInfoProto: { name: [1, 'string'], type: [2, 'TypeProto'] },
  TypeProto: { tensorType: [1, 'TensorTypeProto'] },
  TensorTypeProto: { elemType: [1, 'int32'], shape: [2, 'TensorShapeProto'] },
  TensorShapeProto: { dim: [1, 'DimensionProto', 'repeated'] },
  DimensionProto: { dimValue: [1, 'int64'], dimParam: [2, 'string'] },
} as const satisfies Record<string, Record<string, readonly [number, string, ('repeated' | 'packed')?]>>;

/** A 64-bit integer as decoded: a number where that is exact, otherwise two 32-bit halves. */
export type Int64 = number | { readonly low: number; readonly high: number; readonly unsigned: boolean };

/** What every decoded message may carry: the fields the schema does not name, each as its raw bytes with tag. */
export interface Message {
  $unknowns?: Uint8Array[];
}

/** StringStringEntryProto: a metadata property, or a part of where external data lies. */
export interface EntryProto extends Message {
  key?: string;
  value?: string;
}

/**
 * Values lie in `rawData`, in the one typed list that belongs to `dataType`, or, where `dataLocation` is 1, in another file.
 */
export interface TensorProto extends Message {
  dims?: Int64[];
  dataType?: number;
  floatData?: number[];
  int32Data?: number[];
  stringData?: Uint8Array[];
  int64Data?: Int64[];
  name?: string;
  rawData?: Uint8Array;
  doubleData?: number[];
  uint64Data?: Int64[];
  externalData?: EntryProto[];
  dataLocation?: number;
}

/** `type` says which of the value fields counts; old exporters leave it out. Subgraphs (`g`, `graphs`) are encoded. */
export interface AttributeProto extends Message {
  name?: string;
  f?: number;
  i?: Int64;
  s?: Uint8Array;
  t?: TensorProto;
  g?: Uint8Array;
  floats?: number[];
  ints?: Int64[];
  strings?: Uint8Array[];
  graphs?: Uint8Array[];
  type?: number;
}

/** An omitted optional input or output is an empty string. */
export interface NodeProto extends Message {
  input?: string[];
  output?: string[];
  name?: string;
  opType?: string;
  attribute?: AttributeProto[];
  domain?: string;
}

/** A number, a name, or, where the size is not known, neither. */
export interface DimensionProto extends Message {
  dimValue?: Int64;
  dimParam?: string;
}

/** Without `shape` the rank is not known either; with an empty one it is a scalar. */
export interface TensorTypeProto extends Message {
  elemType?: number;
  shape?: Message & { dim?: DimensionProto[] };
}

/** Name and type of a tensor; without `tensorType` it is a sequence, a map or the like. */
export interface ValueInfoProto extends Message {
  name?: string;
  type?: Message & { tensorType?: TensorTypeProto };
}

/** Nodes are in topological order if the file keeps to the specification, which is not relied on. */
export interface GraphProto extends Message {
  node?: NodeProto[];
  name?: string;
  initializer?: TensorProto[];
  input?: ValueInfoProto[];
  output?: ValueInfoProto[];
  valueInfo?: ValueInfoProto[];
  sparseInitializer?: Uint8Array[];
}

/** The message that an ONNX file consists of. */
export interface ModelProto extends Message {
  irVersion?: Int64;
  producerName?: string;
  graph?: GraphProto;
  opsetImport?: (Message & { domain?: string; version?: Int64 })[];
  metadataProps?: EntryProto[];
}

const root = new protobuf.Root();
for (const [typeName, members] of Object.entries(fields)) {
  const type = new protobuf.Type(typeName);
  const entries = Object.entries(members) as [string, readonly [number, string, ('repeated' | 'packed')?]][];
  for (const [name, [id, fieldType, rule]] of entries) {
    const options = rule === undefined || rule === 'packed' ? {} : { packed: false };
    type.add(new protobuf.Field(name, id, fieldType, rule === undefined ? undefined : 'repeated', undefined, options));
  }
  root.add(type);
}
root.resolveAll();
// An absent field shall read as undefined; the library would answer the type's zero, and hide that it is absent.
for (const typeName of Object.keys(fields)) {
  const type = root.lookupType(typeName);
  for (const field of type.fieldsArray) Reflect.deleteProperty(type.ctor.prototype, field.name);
}

/**
 * What parsing may still spend, shared by the messages of one model: a small file made of millions of tiny fields, each of which
 * costs a hundred bytes of objects, or of a huge array of one-byte integers is refused before it fills the memory.
 */
export interface ParseBudget {
  fields: number;
  /** Elements of number arrays, by bytes where their size varies; tensors stored as raw data have none. */
  numbers: number;
}

/** The budget for one model: some 300 MB of objects in the worst case, a hundred times what real models need. */
export function newParseBudget(): ParseBudget {
  return { fields: 1_000_000, numbers: 16 * 2 ** 20 };
}

/** The file asks for more objects than the budget allows. */
export class ParseBudgetExceeded extends Error {}

class MeteredReader extends protobuf.Reader {
  constructor(
    bytes: Uint8Array,
    private readonly budget: ParseBudget,
  ) {
    super(bytes);
    this.discardUnknown = false;
  }

  override tag(): number {
    const tag = super.tag();
    const isLengthDelimited = (tag & 7) === 2;
    if (isLengthDelimited) this.spendField();
    else this.spendNumbers(1);
    return tag;
  }

  // Makes the views of `bytes` fields and of unknown fields, whatever their wire type.
  override raw(start: number, end: number): Uint8Array {
    this.spendField();
    return super.raw(start, end);
  }

  // The library answers Long objects; a number takes a fifth of the memory and nearly every value fits.
  override int64(): protobuf.Long {
    return compact(super.int64()) as protobuf.Long;
  }

  override uint64(): protobuf.Long {
    return compact(super.uint64()) as protobuf.Long;
  }

  override int32s(array?: number[]): number[] {
    this.spendNumbers(this.peekSize());
    return super.int32s(array);
  }

  override int64s(array?: (protobuf.Long | number)[]): (protobuf.Long | number)[] {
    this.spendNumbers(this.peekSize());
    return super.int64s(array);
  }

  override uint64s(array?: (protobuf.Long | number)[]): (protobuf.Long | number)[] {
    this.spendNumbers(this.peekSize());
    return super.uint64s(array);
  }

  override floats(array?: number[]): number[] {
    this.spendNumbers(this.peekSize() / 4);
    return super.floats(array);
  }

  override doubles(array?: number[]): number[] {
    this.spendNumbers(this.peekSize() / 8);
    return super.doubles(array);
  }

  private peekSize(): number {
    const start = this.pos;
    const size = this.size();
    this.pos = start;
    return size;
  }

  private spendField(): void {
    if (--this.budget.fields < 0) throw new ParseBudgetExceeded('too many protobuf fields');
  }

  private spendNumbers(count: number): void {
    this.budget.numbers -= count;
    if (this.budget.numbers < 0) throw new ParseBudgetExceeded('too many numbers outside raw data');
  }
}

function compact(long: protobuf.Long): Int64 {
  const high = long.unsigned ? long.high >>> 0 : long.high;
  return high >= -0x200000 && high < 0x200000 ? high * 2 ** 32 + (long.low >>> 0) : long;
}

interface ParsedTypes {
  ModelProto: ModelProto;
  GraphProto: GraphProto;
}

/** Parses one message; `bytes` fields are views of the input. Throws the library's errors, and ParseBudgetExceeded. */
export function parseMessage<Type extends keyof ParsedTypes>(
  type: Type,
  bytes: Uint8Array,
  budget: ParseBudget,
): ParsedTypes[Type] {
  // A Buffer would give Buffers as views; the plain array gives plain arrays.
  const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return root.lookupType(type).decode(new MeteredReader(plain, budget)) as ParsedTypes[Type];
}

/** Serializes a model message. */
export function serializeModel(model: ModelProto): Uint8Array {
  const buffer = root.lookupType('ModelProto').encode(model).finish();
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}
