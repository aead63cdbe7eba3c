import type { Operator } from '../onnx/model.js';
import { readFloats } from '../onnx/tensor.js';
import type { PreparedModel } from '../prepare.js';
import { deployedOptions, dequantizeWeights, quantizeWeights } from './weights.js';

/** Mean of each input channel of the tensors that weighted operators read, by tensor. */
export type ChannelMeans = Readonly<Record<string, readonly number[]>>;

/**
 * What rounding a weight adds to the mean of each output channel, with the sign that undoes it: the sum over the channel's weights
 * of (float - rounded) times the mean of the input channel it multiplies (DFQ, arXiv 1906.04721, section 4.2, with means from
 * calibration samples instead of BatchNorm). Border positions see padding instead of the mean; that is neglected.
 *
 * @returns one correction for each output channel; null where the operator has no weight or its input means are not known
 */
export function biasCorrection(
  { model }: Pick<PreparedModel, 'model'>,
  operator: Operator,
  bits: number,
  channelMeans: ChannelMeans,
  saturates: boolean,
): Float32Array | null {
  const means = channelMeans[operator.inputs[0] ?? ''];
  const tensor = operator.weight === null ? undefined : model.graph.initializers.get(operator.weight.name);
  if (means === undefined || tensor === undefined || operator.weight === null) return null;
  const { channelAxis } = operator.weight;
  const weights = readFloats(tensor);
  const rounded = dequantizeWeights(
    quantizeWeights(weights, tensor.dims, channelAxis, bits, deployedOptions(operator, tensor.dims, bits, saturates)),
    tensor.dims,
    channelAxis,
  );
  const correction = new Float32Array(tensor.dims[channelAxis]!);
  const inputChannel = inputChannelOf(operator.op, tensor.dims, channelAxis, groupsOf(operator.nodes[0]!.attributes));
  for (let i = 0; i < weights.length; i++) {
    const difference = weights[i]! - rounded[i]!;
    if (difference === 0) continue;
    const { output, input } = inputChannel(i);
    correction[output]! += difference * (means[input] ?? 0);
  }
  return correction;
}

/** Corrections of 8-bit weights by operator name, for every operator that has one. */
export function biasCorrections(
  prepared: PreparedModel,
  channelMeans: ChannelMeans,
  saturates: boolean,
): Map<string, Float32Array> {
  return new Map(
    prepared.operators.flatMap((operator) => {
      const correction = biasCorrection(prepared, operator, 8, channelMeans, saturates);
      return correction === null ? [] : [[operator.name, correction] as const];
    }),
  );
}

function groupsOf(attributes: ReadonlyMap<string, { kind: string; value: unknown }>): number {
  const group = attributes.get('group');
  return group?.kind === 'int' ? (group.value as number) : 1;
}

/** Output and input channel of a flat weight index. Convolution weights are [out, in / groups, kernel...]. */
function inputChannelOf(
  op: string,
  dims: readonly number[],
  axis: number,
  groups: number,
): (index: number) => { output: number; input: number } {
  const [first, second] = [dims[0]!, dims[1]!];
  if (op === 'Conv') {
    const kernel = dims.slice(2).reduce((a, b) => a * b, 1);
    const outputsPerGroup = first / groups;
    return (index) => {
      const output = Math.floor(index / (second * kernel));
      const input = Math.floor(output / outputsPerGroup) * second + (Math.floor(index / kernel) % second);
      return { output, input };
    };
  }
  return axis === 0
    ? (index) => ({ output: Math.floor(index / second), input: index % second })
    : (index) => ({ output: index % second, input: Math.floor(index / second) });
}
