import { EdgeError } from '../../../configs/contracts/errors.js';
import { reads, sortTopologically } from './graph.js';
import { malformed } from './malformed.js';
import type { AttributeValue, Graph, Model, Node, Tensor, ValueInfo } from './model.js';
import {
  type AttributeProto,
  type GraphProto,
  type NodeProto,
  newParseBudget,
  type ParseBudget,
  ParseBudgetExceeded,
  parseMessage,
  serializeModel,
  type ValueInfoProto,
} from './schema.js';
import { makeTensor } from './tensor.js';
import {
  decodeTensor,
  elementType,
  encodeTensor,
  exactInteger,
  keepUnknown,
  nearestInteger,
  type ReadExternal,
  restoreUnknown,
  typeCode,
} from './tensor-codec.js';

/** Default-domain operator sets whose meaning the passes know. */
export const supportedOpsets = { oldest: 8, newest: 21 } as const;

/** Subgraphs in subgraphs (If in Loop in ...) are followed this far to learn which tensors they read. */
const deepestSubgraph = 16;

/** AttributeProto.AttributeType. */
const attributeTypes = { float: 1, int: 2, string: 3, tensor: 4, floats: 6, ints: 7, strings: 8 } as const;

/** What decoding needs beside the bytes; nothing of it for a model in one file. */
export interface DecodeOptions {
  /** Supplies external tensor data; without it a model that has any is `model/external-data`. */
  readonly readExternal?: ReadExternal;
  /** What errors about the file as a whole give as their subject; 'model' when absent. */
  readonly fileName?: string;
}

/**
 * The model in an ONNX file. Tensor data are views of `bytes`, which must not change afterwards. Constant nodes become
 * initializers, nodes are sorted and have unique names, and names are known to be consistent: every tensor has one producer and
 * every read has one. Throws EdgeError: `model/malformed`, `model/unsupported`, `model/too-large`, `model/external-data`.
 */
export function decode(bytes: Uint8Array, options: DecodeOptions = {}): Model {
  const { fileName = 'model', readExternal } = options;
  const budget = newParseBudget();
  const message = parseOrExplain('ModelProto', bytes, budget, fileName);
  if (message.graph === undefined) throw malformed(fileName, `${fileName} contains no ONNX graph`);

  const opsets = new Map<string, number>();
  for (const { domain = '', version } of message.opsetImport ?? []) {
    opsets.set(plainDomain(domain), exactInteger(version, `opset of ${domain || 'the default domain'}`));
  }
  const opset = opsets.get('');
  if (opset === undefined || opset < supportedOpsets.oldest || opset > supportedOpsets.newest) {
    const found = opset === undefined ? 'no default-domain opset' : `opset ${opset}`;
    throw new EdgeError('model/unsupported', `${fileName} has ${found}; 8 to 21 are supported`, { subject: fileName });
  }
  return {
    irVersion: exactInteger(message.irVersion, fileName),
    opsets,
    producer: message.producerName ?? '',
    metadata: new Map((message.metadataProps ?? []).map(({ key = '', value = '' }) => [key, value])),
    graph: decodeGraph(message.graph, { readExternal, budget, fileName }),
    ...keepUnknown(message),
  };
}

/** The ONNX file of a model; tensor data are written as raw data, inside the file. `model/too-large` past 2 GB. */
export function encode(model: Model): Uint8Array {
  const { graph } = model;
  const dataBytes = [...graph.initializers.values()].reduce((sum, tensor) => sum + tensor.bytes.length, 0);
  if (dataBytes >= 2 ** 31) {
    throw new EdgeError('model/too-large', 'the model has 2 GB of data or more', { subject: graph.name || 'model' });
  }
  // Up to IR version 3 every initializer must also be a graph input.
  const listed = new Set(graph.inputs.map((input) => input.name));
  const needsNewerIr = [...graph.initializers.keys()].some((name) => !listed.has(name));
  return serializeModel({
    ...restoreUnknown(model.unknown),
    irVersion: needsNewerIr ? Math.max(model.irVersion, 4) : model.irVersion,
    producerName: model.producer,
    graph: {
      ...restoreUnknown(graph.unknown),
      node: graph.nodes.map(encodeNode),
      name: graph.name,
      initializer: [...graph.initializers.values()].map(encodeTensor),
      input: graph.inputs.map(encodeValueInfo),
      output: graph.outputs.map(encodeValueInfo),
      valueInfo: [...graph.valueInfo.values()].map(encodeValueInfo),
    },
    opsetImport: [...model.opsets].map(([domain, version]) => ({ domain, version })),
    metadataProps: [...model.metadata].map(([key, value]) => ({ key, value })),
  });
}

interface DecodeContext {
  readonly readExternal: ReadExternal | undefined;
  readonly budget: ParseBudget;
  readonly fileName: string;
}

function decodeGraph(message: GraphProto, context: DecodeContext): Graph {
  if (message.sparseInitializer?.length) {
    throw new EdgeError('model/unsupported', 'sparse initializers are not supported', {
      subject: context.fileName,
      hint: 'Export the model with dense initializers.',
    });
  }
  const initializers = new Map<string, Tensor>();
  const addInitializer = (tensor: Tensor): void => {
    if (initializers.has(tensor.name)) throw malformed(tensor.name, `${tensor.name} is defined twice`);
    initializers.set(tensor.name, tensor);
  };
  for (const proto of message.initializer ?? []) {
    if (!proto.name) throw malformed('initializer', 'an initializer has no name');
    addInitializer(decodeTensor(proto, proto.name, context.readExternal));
  }

  const nodes: Node[] = [];
  const nameOf = nodeNamer(message.node ?? []);
  for (const proto of message.node ?? []) {
    const node = decodeNode(proto, nameOf(proto), context);
    const constant = constantOf(node);
    if (constant === null) nodes.push(node);
    else addInitializer(constant);
  }

  const graph: Graph = {
    name: message.name ?? '',
    nodes: sortTopologically(nodes),
    initializers,
    inputs: (message.input ?? []).map(decodeValueInfo),
    outputs: (message.output ?? []).map(decodeValueInfo),
    valueInfo: new Map((message.valueInfo ?? []).map(decodeValueInfo).map((info) => [info.name, info])),
    ...keepUnknown(message),
  };
  checkNames(graph);
  return graph;
}

/** Every tensor is made once and every tensor read is made somewhere, else `model/malformed`. */
function checkNames(graph: Graph): void {
  const inputs = new Set<string>();
  for (const { name } of graph.inputs) {
    if (name === '' || inputs.has(name)) throw malformed(name || 'input', `graph input ${name} is defined twice`);
    inputs.add(name);
  }
  const defined = new Set([...inputs, ...graph.initializers.keys()]);
  for (const node of graph.nodes) {
    for (const output of node.outputs) {
      if (output === '') continue;
      if (defined.has(output)) throw malformed(output, `${output} is defined twice, once by node ${node.name}`);
      defined.add(output);
    }
  }
  for (const node of graph.nodes) {
    const missing = reads(node).find((input) => !defined.has(input));
    if (missing !== undefined) throw malformed(node.name, `node ${node.name} reads ${missing}, which nothing defines`);
  }
  const outputs = new Set<string>();
  for (const { name } of graph.outputs) {
    if (!defined.has(name)) throw malformed(name || 'output', `graph output ${name} is defined by nothing`);
    if (outputs.has(name)) throw malformed(name, `graph output ${name} is listed twice`);
    outputs.add(name);
  }
  if (outputs.size === 0) throw malformed(graph.name || 'model', 'the graph has no output');
}

/** Names for nodes in order: their own where it is the first of its kind, otherwise one that no node of the file has. */
function nodeNamer(protos: readonly NodeProto[]): (proto: NodeProto) => string {
  const inFile = new Set(protos.map((proto) => proto.name ?? ''));
  const used = new Set<string>();
  let counter = 0;
  return (proto) => {
    let name = proto.name ?? '';
    while (name === '' || used.has(name) || (name !== proto.name && inFile.has(name))) {
      name = `${proto.name || proto.opType || 'node'}_${counter++}`;
    }
    used.add(name);
    return name;
  };
}

function decodeNode(proto: NodeProto, name: string, context: DecodeContext): Node {
  const { budget } = context;
  if (!proto.opType) throw malformed(name, `node ${name} has no operator type`);
  const attributes = new Map<string, AttributeValue>();
  const captures = new Set<string>();
  for (const attribute of proto.attribute ?? []) {
    const key = attribute.name ?? '';
    if (attributes.has(key)) throw malformed(name, `node ${name} has two attributes named '${key}'`);
    attributes.set(key, decodeAttribute(attribute, name));
    const subgraphs = [...(attribute.g ? [attribute.g] : []), ...(attribute.graphs ?? [])];
    for (const bytes of subgraphs) for (const tensor of freeNames(bytes, name, budget, 1)) captures.add(tensor);
  }
  return {
    name,
    op: proto.opType,
    domain: plainDomain(proto.domain ?? ''),
    inputs: proto.input ?? [],
    outputs: proto.output ?? [],
    attributes,
    ...(captures.size > 0 ? { captures: [...captures] } : {}),
    ...keepUnknown(proto),
  };
}

/** Names that a subgraph reads from the graphs around it. */
function freeNames(bytes: Uint8Array, nodeName: string, budget: ParseBudget, depth: number): Set<string> {
  if (depth > deepestSubgraph) {
    throw new EdgeError('model/unsupported', `the subgraphs of node ${nodeName} nest too deeply`, {
      subject: nodeName,
    });
  }
  const graph = parseOrExplain('GraphProto', bytes, budget, nodeName);
  const free = new Set<string>();
  const own = new Set<string>();
  for (const input of graph.input ?? []) own.add(input.name ?? '');
  for (const tensor of graph.initializer ?? []) own.add(tensor.name ?? '');
  for (const node of graph.node ?? []) {
    for (const output of node.output ?? []) own.add(output);
    for (const input of node.input ?? []) free.add(input);
    for (const { g, graphs = [] } of node.attribute ?? []) {
      for (const inner of g ? [g, ...graphs] : graphs) {
        for (const name of freeNames(inner, nodeName, budget, depth + 1)) free.add(name);
      }
    }
  }
  for (const output of graph.output ?? []) free.add(output.name ?? '');
  for (const name of own) free.delete(name);
  free.delete('');
  return free;
}

function decodeAttribute(proto: AttributeProto, nodeName: string): AttributeValue {
  const unknown = keepUnknown(proto);
  switch (proto.type || guessAttributeType(proto)) {
    case attributeTypes.float:
      return { kind: 'float', value: proto.f ?? 0, ...unknown };
    case attributeTypes.int:
      return { kind: 'int', value: nearestInteger(proto.i ?? 0), ...unknown };
    case attributeTypes.floats:
      return { kind: 'floats', value: proto.floats ?? [], ...unknown };
    case attributeTypes.ints:
      return { kind: 'ints', value: (proto.ints ?? []).map(nearestInteger), ...unknown };
    case attributeTypes.tensor:
      if (proto.t === undefined) throw malformed(nodeName, `attribute ${proto.name} of ${nodeName} has no value`);
      return { kind: 'tensor', value: decodeTensor(proto.t, proto.t.name || `${nodeName}.${proto.name}`), ...unknown };
    case attributeTypes.string: {
      const value = utf8Text(proto.s ?? new Uint8Array(0));
      return value === null ? { kind: 'opaque', value: proto } : { kind: 'string', value, ...unknown };
    }
    case attributeTypes.strings: {
      const value = (proto.strings ?? []).map(utf8Text);
      const isText = (texts: (string | null)[]): texts is string[] => !texts.includes(null);
      return isText(value) ? { kind: 'strings', value, ...unknown } : { kind: 'opaque', value: proto };
    }
    default:
      return { kind: 'opaque', value: proto };
  }
}

/** Files of IR version 1 do not say which field of an attribute is meant. */
function guessAttributeType(proto: AttributeProto): number | undefined {
  if (proto.f !== undefined) return attributeTypes.float;
  if (proto.i !== undefined) return attributeTypes.int;
  if (proto.s !== undefined) return attributeTypes.string;
  if (proto.t !== undefined) return attributeTypes.tensor;
  if (proto.floats?.length) return attributeTypes.floats;
  if (proto.ints?.length) return attributeTypes.ints;
  if (proto.strings?.length) return attributeTypes.strings;
  return undefined;
}

function utf8Text(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** The tensor that a Constant node stands for; null for other nodes and for text and sparse constants, which stay nodes. */
function constantOf(node: Node): Tensor | null {
  const [output] = node.outputs;
  if (node.op !== 'Constant' || node.domain !== '' || !output) return null;
  for (const [key, attribute] of node.attributes) {
    const { kind, value } = attribute;
    if (key === 'value' && kind === 'tensor') return { ...value, name: output };
    if (key === 'value_float' && kind === 'float') return makeTensor(output, 'float32', [], Float32Array.of(value));
    if (key === 'value_floats' && kind === 'floats') {
      return makeTensor(output, 'float32', [value.length], Float32Array.from(value));
    }
    if (key === 'value_int' && kind === 'int') return makeTensor(output, 'int64', [], BigInt64Array.of(BigInt(value)));
    if (key === 'value_ints' && kind === 'ints') {
      return makeTensor(output, 'int64', [value.length], BigInt64Array.from(value, BigInt));
    }
  }
  return null;
}

function decodeValueInfo(proto: ValueInfoProto): ValueInfo {
  const name = proto.name ?? '';
  const tensorType = proto.type?.tensorType;
  const dims = tensorType?.shape === undefined ? null : (tensorType.shape.dim ?? []);
  const shape = dims?.map(({ dimValue, dimParam }) => {
    if (dimParam !== undefined && dimParam !== '') return dimParam;
    if (dimValue === undefined) return null;
    const value = exactInteger(dimValue, name);
    return value < 0 ? null : value; // Some exporters write -1 for "any".
  });
  return { name, type: elementType(tensorType?.elemType), shape: shape ?? null, unknown: proto };
}

function encodeValueInfo(info: ValueInfo): ValueInfoProto {
  const original = (info.unknown ?? {}) as ValueInfoProto;
  const elemType = typeCode(info.type);
  const common = { ...restoreUnknown(original), name: info.name };
  // Sequences, maps and element types we cannot hold: as they came.
  if (elemType === undefined) return original.type === undefined ? common : { ...common, type: original.type };
  const dim = info.shape?.map((value) => {
    if (value === null) return {};
    return typeof value === 'string' ? { dimParam: value } : { dimValue: value };
  });
  const tensorType = { ...restoreUnknown(original.type?.tensorType), elemType, ...(dim ? { shape: { dim } } : {}) };
  return { ...common, type: { ...restoreUnknown(original.type), tensorType } };
}

function encodeNode(node: Node): NodeProto {
  return {
    ...restoreUnknown(node.unknown),
    input: [...node.inputs],
    output: [...node.outputs],
    name: node.name,
    opType: node.op,
    attribute: [...node.attributes].map(([name, attribute]) => encodeAttribute(name, attribute)),
    ...(node.domain === '' ? {} : { domain: node.domain }),
  };
}

function encodeAttribute(name: string, attribute: AttributeValue): AttributeProto {
  if (attribute.kind === 'opaque') {
    const proto = attribute.value as AttributeProto;
    return { ...proto, ...restoreUnknown(proto), name };
  }
  const text = new TextEncoder();
  const common = { ...restoreUnknown(attribute.unknown), name, type: attributeTypes[attribute.kind] };
  switch (attribute.kind) {
    case 'float':
      return { ...common, f: attribute.value };
    case 'int':
      return { ...common, i: attribute.value };
    case 'string':
      return { ...common, s: text.encode(attribute.value) };
    case 'floats':
      return { ...common, floats: [...attribute.value] };
    case 'ints':
      return { ...common, ints: [...attribute.value] };
    case 'strings':
      return { ...common, strings: attribute.value.map((value) => text.encode(value)) };
    case 'tensor':
      return { ...common, t: encodeTensor(attribute.value) };
  }
}

/** The default domain has two names. */
function plainDomain(domain: string): string {
  return domain === 'ai.onnx' ? '' : domain;
}

function parseOrExplain<Type extends 'ModelProto' | 'GraphProto'>(
  type: Type,
  bytes: Uint8Array,
  budget: ParseBudget,
  subject: string,
): ReturnType<typeof parseMessage<Type>> {
  try {
    return parseMessage(type, bytes, budget);
  } catch (cause) {
    if (cause instanceof ParseBudgetExceeded) {
      throw new EdgeError('model/too-large', `${subject} consists of too many parts`, { subject, cause });
    }
    throw malformed(subject, `${subject} is not a readable ONNX message`, cause);
  }
}
