import type { AttributeValue, Model, Node, Tensor, ValueInfo } from '../onnx/model.js';
import { makeTensor } from '../onnx/tensor.js';
import type { Affine } from './affine.js';

/** Grids of the tensors that are codes (uint8) outside a part of a model, by name. */
export interface Grids {
  readonly inputs: ReadonlyMap<string, Affine>;
  readonly outputs: ReadonlyMap<string, Affine>;
}

/**
 * A float model that reads and answers codes: inputs and outputs with a grid keep their names and become uint8, converted at the edge.
 * In between it computes in float. Codes are made as the engine makes them: divided by the scale, rounded (ties to even), zero point added,
 * cut to the grid.
 */
export function onCodes(model: Model, grids: Grids): Model {
  const { graph } = model;
  const initializers = new Map(graph.initializers);
  const before: Node[] = [];
  const after: Node[] = [];
  const constant = (name: string, value: number, type: 'float32' | 'uint8' = 'float32'): string => {
    const values = type === 'uint8' ? Uint8Array.of(value) : Float32Array.of(value);
    initializers.set(name, makeTensor(name, type, [], values));
    return name;
  };
  const emit = (to: Node[], op: string, inputs: readonly string[], output: string, attributes = noAttributes) => {
    to.push({ name: output, op, domain: '', inputs, outputs: [output], attributes });
    return output;
  };
  for (const [name, { scale, zeroPoint }] of grids.inputs) {
    // Spelled out: what a DequantizeLinear feeds, ONNX Runtime may decide to quantize itself.
    const codes = emit(before, 'Cast', [name], `${name} as float`, new Map([['to', integer(floatType)]]));
    const centred =
      zeroPoint === 0 ? codes : emit(before, 'Sub', [codes, constant(`${name} zero`, zeroPoint)], `${name} about zero`);
    emit(before, 'Mul', [centred, constant(`${name} scale`, scale)], inner(name));
  }
  for (const [name, { scale, zeroPoint, codeMinimum, codeMaximum }] of grids.outputs) {
    const low = constant(`${name} low`, (codeMinimum - zeroPoint) * scale);
    const high = constant(`${name} high`, (codeMaximum - zeroPoint) * scale);
    const cut = emit(after, 'Clip', [inner(name), low, high], `${name} cut`);
    const grid = [constant(`${name} out scale`, scale), constant(`${name} out zero`, zeroPoint, 'uint8')];
    emit(after, 'QuantizeLinear', [cut, ...grid], name);
  }
  const renamed = (name: string) => (grids.inputs.has(name) || grids.outputs.has(name) ? inner(name) : name);
  const info = (of: ValueInfo, codes: ReadonlyMap<string, Affine>): ValueInfo =>
    codes.has(of.name) ? { ...of, type: 'uint8' } : of;
  return {
    ...model,
    graph: {
      ...graph,
      nodes: [
        ...before,
        ...graph.nodes.map((node) => ({
          ...node,
          inputs: node.inputs.map(renamed),
          outputs: node.outputs.map(renamed),
        })),
        ...after,
      ],
      initializers,
      inputs: graph.inputs.map((input) => info(input, grids.inputs)),
      outputs: graph.outputs.map((output) => info(output, grids.outputs)),
      valueInfo: new Map(),
    },
  };
}

const floatType = 1;
const noAttributes: ReadonlyMap<string, AttributeValue> = new Map();
const integer = (value: number): AttributeValue => ({ kind: 'int', value });

/** The tensor as floats, between the conversions. */
function inner(name: string): string {
  return `${name} in float`;
}

/** The product of a weighted operator's first node alone, with another weight, without bias and activation function. */
export function productAlone(model: Model, node: Node, weight: Tensor, shape: readonly number[]): Model {
  const input = node.inputs[0]!;
  return {
    ...model,
    graph: {
      ...model.graph,
      nodes: [{ ...node, inputs: [input, weight.name] }],
      initializers: new Map([[weight.name, weight]]),
      inputs: [{ name: input, type: 'float32', shape }],
      outputs: [{ name: node.outputs[0]!, type: 'float32', shape: null }],
      valueInfo: new Map(),
    },
  };
}
