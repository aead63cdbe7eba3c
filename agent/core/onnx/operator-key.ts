import { intsAttribute } from './attributes.js';
import { slidingGeometry } from './geometry.js';
import type { AttributeValue, Node, Operator, Shapes, Tensor } from './model.js';
import { convGeometry } from './shape-rules.js';

/** Attributes that are spelled out by the resolved geometry, or say nothing about the cost. */
const impliedAttributes = new Set([
  'auto_pad',
  'ceil_mode',
  'dilations',
  'group',
  'kernel_shape',
  'output_padding',
  'output_shape',
  'pads',
  'strides',
]);

/**
 * Canonical text of what an operator computes, without precision and without values: operator, shapes of activations, constants
 * and results, resolved geometry, attributes, fused clamp. Operators with equal keys cost the same; it names rows of latency tables.
 *
 * Example: `Conv(1x3x32x32,16x3x3x3*,16*)->1x16x32x32 kernel=3,3 strides=1,1 dilations=1,1 pads=1,1,1,1 group=1 clamp=0,Infinity`,
 * where `*` marks constants.
 */
export function operatorKey(
  operator: Pick<Operator, 'op' | 'nodes' | 'clamp' | 'inputs' | 'outputs'>,
  initializers: ReadonlyMap<string, Tensor>,
  shapes: Shapes,
): string {
  const shapeText = (name: string): string => {
    const shape = shapes.get(name)?.join('x') ?? '?';
    return initializers.has(name) ? `${shape}*` : shape;
  };
  const [first] = operator.nodes;
  const isPattern = operator.op !== first!.op;
  const reads = isPattern ? operator.inputs : operandsOf(operator.nodes);
  const domain = first!.domain === '' ? '' : `${first!.domain}.`;
  const parts = [
    `${domain}${operator.op}(${reads.map(shapeText).join()})->${operator.outputs.map(shapeText).join()}`,
    ...(isPattern ? [] : describeNode(first!, shapes)),
    ...(operator.clamp === null ? [] : [`clamp=${operator.clamp.join()}`]),
  ];
  return parts.join(' ');
}

/** What the first node reads, and the bias that a second one adds; bounds of a Clip are in the clamp. */
function operandsOf(nodes: readonly Node[]): readonly string[] {
  const [first, second] = nodes;
  if (first!.op === 'Clip') return first!.inputs.slice(0, 1);
  const bias = second?.op === 'Add' ? second.inputs.filter((input) => !first!.outputs.includes(input)) : [];
  return [...first!.inputs, ...bias];
}

function describeNode(node: Node, shapes: Shapes): string[] {
  const geometry = geometryOf(node, shapes);
  const attributes = [...node.attributes]
    .filter(([name]) => geometry === null || !impliedAttributes.has(name))
    .map(([name, value]) => `${name}=${describeValue(value, node)}`)
    .sort();
  return [...(geometry ?? []), ...attributes];
}

function geometryOf(node: Node, shapes: Shapes): string[] | null {
  const input = shapes.get(node.inputs[0] ?? '');
  const weight = shapes.get(node.inputs[1] ?? '');
  if (node.domain !== '' || input === undefined) return null;
  if ((node.op === 'Conv' || node.op === 'ConvTranspose') && weight !== undefined) {
    const geometry = convGeometry(node, input, weight);
    return [...describeGeometry(geometry), `group=${geometry.group}`];
  }
  if (node.op !== 'MaxPool' && node.op !== 'AveragePool') return null;
  return describeGeometry(slidingGeometry(node, input.slice(2), intsAttribute(node, 'kernel_shape') ?? []));
}

function describeGeometry({ kernel, strides, dilations, pads }: ReturnType<typeof slidingGeometry>): string[] {
  return [`kernel=${kernel}`, `strides=${strides}`, `dilations=${dilations}`, `pads=${pads}`];
}

function describeValue(attribute: AttributeValue, node: Node): string {
  switch (attribute.kind) {
    case 'tensor':
      return attribute.value.dims.join('x');
    case 'opaque':
      // Subgraphs: equal to nothing but themselves.
      return `of:${node.name}`;
    default:
      return String(attribute.value);
  }
}
