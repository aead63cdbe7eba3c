import { EdgeError } from '../../../configs/contracts/errors.js';
import type { AttributeValue, ElementType, Model, Node, Tensor, ValueInfo } from './model.js';
import { castType } from './operator-table.js';
import { makeTensor, readFloats } from './tensor.js';
import { elementTypes } from './types.js';

/** TensorProto.DataType codes. */
const float32Code = 1;
const halfCodes: readonly number[] = [10, 16];

/** Attributes that hold such a code: of Cast, and of operators that make tensors (RandomNormal, EyeLike, ...). */
const typeAttributes: readonly string[] = ['to', 'dtype'];

function isHalf(type: ElementType): boolean {
  return type === 'float16' || type === 'bfloat16';
}

/**
 * The model with every float16 and bfloat16 tensor in float32, which holds their values exactly; inputs and outputs too. Casts
 * between float types are Identity afterwards. A model without such tensors comes back as it is; one that has them and subgraphs
 * (If, Loop), which cannot be looked into, is `model/unsupported`.
 */
export function widenHalves(model: Model): Model {
  const { graph } = model;
  const infos = [...graph.inputs, ...graph.outputs, ...graph.valueInfo.values()];
  const hasHalves =
    infos.some(({ type }) => isHalf(type)) ||
    [...graph.initializers.values()].some(({ type }) => isHalf(type)) ||
    graph.nodes.some((node) => [...node.attributes].some(([name, attribute]) => mentionsHalf(name, attribute)));
  if (!hasHalves) return model;
  const opaque = graph.nodes.find((node) => node.captures !== undefined);
  if (opaque !== undefined) {
    throw new EdgeError('model/unsupported', `${opaque.op} has subgraphs, and the model is in 16-bit floating point`, {
      subject: opaque.name,
      hint: 'Export the model in float32.',
    });
  }
  const widened: Model = {
    ...model,
    graph: {
      ...graph,
      nodes: graph.nodes.map(widenNode),
      initializers: new Map([...graph.initializers].map(([name, tensor]) => [name, widenTensor(tensor)])),
      inputs: graph.inputs.map(widenInfo),
      outputs: graph.outputs.map(widenInfo),
      valueInfo: new Map([...graph.valueInfo].map(([name, info]) => [name, widenInfo(info)])),
    },
  };
  return { ...widened, graph: { ...widened.graph, nodes: withoutIdleCasts(widened) } };
}

function mentionsHalf(name: string, attribute: AttributeValue): boolean {
  if (attribute.kind === 'tensor') return isHalf(attribute.value.type);
  return attribute.kind === 'int' && typeAttributes.includes(name) && halfCodes.includes(attribute.value);
}

function widenNode(node: Node): Node {
  if (node.domain !== '' || ![...node.attributes].some(([name, attribute]) => mentionsHalf(name, attribute)))
    return node;
  const attributes = [...node.attributes].map(([name, attribute]): [string, AttributeValue] => {
    if (!mentionsHalf(name, attribute)) return [name, attribute];
    return attribute.kind === 'tensor'
      ? [name, { kind: 'tensor', value: widenTensor(attribute.value) }]
      : [name, { kind: 'int', value: float32Code }];
  });
  return { ...node, attributes: new Map(attributes) };
}

function widenTensor(tensor: Tensor): Tensor {
  return isHalf(tensor.type) ? makeTensor(tensor.name, 'float32', tensor.dims, readFloats(tensor)) : tensor;
}

function widenInfo(info: ValueInfo): ValueInfo {
  return isHalf(info.type) ? { ...info, type: 'float32' } : info;
}

/** The nodes with Identity for every Cast to the type that its input has. */
function withoutIdleCasts(model: Model): Node[] {
  const types = elementTypes(model);
  return model.graph.nodes.map((node) => {
    const isIdle = node.op === 'Cast' && node.domain === '' && types.get(node.inputs[0] ?? '') === castType(node);
    return isIdle ? { ...node, op: 'Identity', attributes: new Map() } : node;
  });
}
