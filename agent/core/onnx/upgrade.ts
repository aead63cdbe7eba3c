import { EdgeError } from '../../../configs/contracts/errors.js';
import type { AttributeValue, Model, Node, Shapes } from './model.js';
import { makeTensor } from './tensor.js';

/** Oldest default-domain opset with per-channel QuantizeLinear/DequantizeLinear: what every model is brought to. */
export const workingOpset = 13;
const workingIrVersion = 7;

/**
 * Rewrites a model of opset 8 to 12 in the operators' opset-13 forms (attributes that became inputs, Upsample as Resize, the
 * flattening Softmax), and drops the graph inputs that merely name initializers, which old exporters write and which would keep
 * runtimes from treating weights as constants. Newer models only get the second part. The computed function is unchanged.
 *
 * @param shapes of the model as it is, needed where a rewrite depends on a rank
 */
export function upgrade(model: Model, shapes: Shapes): Model {
  const opset = model.opsets.get('') ?? 0;
  const graph = {
    ...model.graph,
    inputs: model.graph.inputs.filter((input) => !model.graph.initializers.has(input.name)),
  };
  const irVersion = Math.max(model.irVersion, workingIrVersion);
  if (opset >= workingOpset) return { ...model, irVersion, graph };
  const initializers = new Map(graph.initializers);
  const context: Context = {
    opset,
    shapes,
    ints(name, values) {
      initializers.set(
        name,
        makeTensor(
          name,
          'int64',
          [values.length],
          BigInt64Array.from(values, (value) => BigInt(value)),
        ),
      );
      return name;
    },
    floats(name, dims, values) {
      initializers.set(name, makeTensor(name, 'float32', dims, Float32Array.from(values)));
      return name;
    },
  };
  const nodes = graph.nodes.flatMap((node) => {
    const rewrite = node.domain === '' ? rewrites[node.op] : undefined;
    return rewrite === undefined ? [node] : rewrite(node, context);
  });
  const opsets = new Map(model.opsets).set('', workingOpset);
  return { ...model, irVersion, opsets, graph: { ...graph, nodes, initializers } };
}

interface Context {
  readonly opset: number;
  readonly shapes: Shapes;
  /** Adds a vector of int64 as an initializer and answers its name. */
  ints(name: string, values: readonly number[]): string;
  /** Adds a float32 initializer and answers its name. */
  floats(name: string, dims: readonly number[], values: readonly number[]): string;
}

type Rewrite = (node: Node, context: Context) => Node[];

const rewrites: Readonly<Record<string, Rewrite>> = {
  Clip: (node, context) => {
    if (context.opset >= 11) return [node];
    const bound = (name: string) => {
      const value = numberOf(node, name);
      return value === undefined ? '' : context.floats(`${node.name}_${name}`, [], [value]);
    };
    return [without(node, ['min', 'max'], [node.inputs[0]!, bound('min'), bound('max')])];
  },
  Dropout: (node) => [without(node, ['ratio'], [node.inputs[0]!])],
  Pad: (node, context) => {
    if (context.opset >= 11) return [node];
    const pads = context.ints(`${node.name}_pads`, intsOf(node, 'pads') ?? []);
    const value = context.floats(`${node.name}_value`, [], [numberOf(node, 'value') ?? 0]);
    return [without(node, ['pads', 'value'], [node.inputs[0]!, pads, value])];
  },
  Slice: (node, context) => {
    if (context.opset >= 10) return [node];
    const starts = intsOf(node, 'starts') ?? [];
    const axes = intsOf(node, 'axes') ?? starts.map((_, axis) => axis);
    const inputs = [
      node.inputs[0]!,
      context.ints(`${node.name}_starts`, starts),
      context.ints(`${node.name}_ends`, intsOf(node, 'ends') ?? []),
      context.ints(`${node.name}_axes`, axes),
    ];
    return [without(node, ['starts', 'ends', 'axes'], inputs)];
  },
  Squeeze: axesBecomeInput,
  Unsqueeze: axesBecomeInput,
  ReduceSum: axesBecomeInput,
  Split: (node, context) => {
    const split = intsOf(node, 'split');
    if (split === undefined) return [node];
    return [without(node, ['split'], [node.inputs[0]!, context.ints(`${node.name}_split`, split)])];
  },
  Upsample: (node, context) => {
    const scales = numbersOf(node, 'scales');
    const input =
      scales === undefined ? node.inputs[1]! : context.floats(`${node.name}_scales`, [scales.length], scales);
    return [asResize(node, input)];
  },
  Resize: (node, context) => (context.opset >= 11 ? [node] : [asResize(node, node.inputs[1]!)]),
  Softmax: flattenedSoftmax,
  LogSoftmax: flattenedSoftmax,
  Hardmax: flattenedSoftmax,
  BatchNormalization: (node) => [without(node, ['spatial'], node.inputs)],
};

function axesBecomeInput(node: Node, context: Context): Node[] {
  const axes = intsOf(node, 'axes');
  if (axes === undefined) return [node];
  return [without(node, ['axes'], [node.inputs[0]!, context.ints(`${node.name}_axes`, axes)])];
}

/** Upsample, and Resize of opset 10, sample at floor(output / scale): asymmetric coordinates, nearest by floor. */
function asResize(node: Node, scales: string): Node {
  const attributes = new Map<string, AttributeValue>([
    ['mode', node.attributes.get('mode') ?? { kind: 'string', value: 'nearest' }],
    ['coordinate_transformation_mode', { kind: 'string', value: 'asymmetric' }],
    ['nearest_mode', { kind: 'string', value: 'floor' }],
  ]);
  return { ...node, op: 'Resize', inputs: [node.inputs[0]!, '', scales], attributes };
}

/**
 * Before opset 13, Softmax flattened its input to two dimensions at `axis` (1 by default). Equal to the new form on the last
 * axis when everything after `axis` has one element or `axis` is the last; otherwise spelled out.
 */
function flattenedSoftmax(node: Node, context: Context): Node[] {
  const shape = context.shapes.get(node.inputs[0]!);
  if (shape === undefined) {
    throw new EdgeError('model/unsupported', `${node.op} of opset ${context.opset} on a tensor of unknown shape`, {
      subject: node.name,
    });
  }
  const declared = numberOf(node, 'axis') ?? 1;
  const axis = declared < 0 ? declared + shape.length : declared;
  const after = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const attribute = (value: number): ReadonlyMap<string, AttributeValue> => new Map([['axis', { kind: 'int', value }]]);
  if (after === 1) return [{ ...node, attributes: attribute(axis) }];
  const flat = `${node.outputs[0]}_flat`;
  const result = `${node.outputs[0]}_flat_${node.op}`;
  return [
    { ...node, name: `${node.name}_flatten`, op: 'Flatten', outputs: [flat], attributes: attribute(axis) },
    { ...node, inputs: [flat], outputs: [result], attributes: attribute(1) },
    {
      ...node,
      name: `${node.name}_unflatten`,
      op: 'Reshape',
      inputs: [result, context.ints(`${node.name}_shape`, shape)],
      attributes: new Map(),
    },
  ];
}

function without(node: Node, names: readonly string[], inputs: readonly string[]): Node {
  const attributes = new Map([...node.attributes].filter(([name]) => !names.includes(name)));
  let count = inputs.length;
  while (count > 0 && inputs[count - 1] === '') count--;
  return { ...node, attributes, inputs: inputs.slice(0, count) };
}

function numberOf(node: Node, name: string): number | undefined {
  const attribute = node.attributes.get(name);
  return attribute?.kind === 'int' || attribute?.kind === 'float' ? attribute.value : undefined;
}

function intsOf(node: Node, name: string): readonly number[] | undefined {
  const attribute = node.attributes.get(name);
  return attribute?.kind === 'ints' ? attribute.value : undefined;
}

function numbersOf(node: Node, name: string): readonly number[] | undefined {
  const attribute = node.attributes.get(name);
  return attribute?.kind === 'floats' ? attribute.value : undefined;
}
