/** Small models for the tests of this folder, and the sample models of the data folder. */
import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { AttributeValue, Graph, Model, Node, Tensor, ValueInfo } from '../../../../agent/core/onnx/model.js';
import { makeTensor } from '../../../../agent/core/onnx/tensor.js';

type PlainAttribute = number | string | readonly number[] | Tensor | { float: number } | { floats: readonly number[] };

/** A node whose attributes are given plainly: integers and lists are ints unless wrapped as { float } or { floats }. */
export function node(
  op: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Readonly<Record<string, PlainAttribute>> = {},
  name = `${op}:${outputs[0]}`,
): Node {
  const values = Object.entries(attributes).map(([key, value]) => [key, attribute(value)] as const);
  return { name, op, domain: '', inputs, outputs, attributes: new Map(values) };
}

function attribute(value: PlainAttribute): AttributeValue {
  if (typeof value === 'number') return { kind: 'int', value };
  if (typeof value === 'string') return { kind: 'string', value };
  if ('float' in value) return { kind: 'float', value: value.float };
  if ('floats' in value) return { kind: 'floats', value: value.floats };
  if ('bytes' in value) return { kind: 'tensor', value };
  return { kind: 'ints', value };
}

export function floats(name: string, dims: readonly number[], values: readonly number[]): Tensor {
  return makeTensor(name, 'float32', dims, Float32Array.from(values));
}

export function ints(name: string, values: readonly number[], dims: readonly number[] = [values.length]): Tensor {
  return makeTensor(name, 'int64', dims, BigInt64Array.from(values, BigInt));
}

export function info(name: string, shape: ValueInfo['shape'], type: ValueInfo['type'] = 'float32'): ValueInfo {
  return { name, type, shape };
}

export interface GraphParts {
  inputs: readonly ValueInfo[];
  nodes: readonly Node[];
  outputs: readonly ValueInfo[];
  initializers?: readonly Tensor[];
  valueInfo?: readonly ValueInfo[];
  opset?: number;
}

export function model(parts: GraphParts): Model {
  const graph: Graph = {
    name: 'test',
    nodes: parts.nodes,
    initializers: new Map((parts.initializers ?? []).map((tensor) => [tensor.name, tensor])),
    inputs: parts.inputs,
    outputs: parts.outputs,
    valueInfo: new Map((parts.valueInfo ?? []).map((value) => [value.name, value])),
  };
  const opsets = new Map([['', parts.opset ?? 13]]);
  return { irVersion: 8, opsets, producer: 'test', metadata: new Map(), graph };
}

const dataFolder = resolve(process.env.QUANTD_DATA ?? '../shared/data', 'models');

/** Paths of the sample models; empty, with skipMessage set, where the data folder is absent. */
export const sampleModels: readonly string[] = existsSync(dataFolder)
  ? readdirSync(dataFolder)
      .filter((name) => name.endsWith('.onnx'))
      .map((name) => join(dataFolder, name))
  : [];

export const skipWithoutSamples =
  sampleModels.length > 0 ? false : `no sample models in ${dataFolder} (set QUANTD_DATA)`;

/** Options of a property test: fast-check prints the seed of a failure, and QUANTD_SEED gives it back. */
export function propertyOptions(numRuns: number): { numRuns: number; seed?: number } {
  const seed = process.env.QUANTD_SEED;
  return seed === undefined ? { numRuns } : { numRuns, seed: Number(seed) };
}
