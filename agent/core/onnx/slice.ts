import { reads } from './graph.js';
import type { Model, Node, Shapes, Tensor, ValueInfo } from './model.js';
import { elementTypes } from './types.js';

/** What is asked of a slice. */
export interface SliceOptions {
  /** Tensors to answer, made in the range or read by it; when absent, those that are read after it or are graph outputs. */
  readonly outputs?: readonly string[];
  /**
   * Initializers that become graph inputs, to be fed on every run: onnxruntime-node cannot feed an initializer that has a value of
   * its own.
   */
  readonly fed?: readonly string[];
  readonly shapes: Shapes;
}

/**
 * The nodes `[range.from, range.to)` of a model, in its order, as a model of its own: its inputs are the activation tensors that
 * the nodes read but do not make, with fixed shapes where these are known; its initializers are those the nodes read. Tensors are
 * shared with the model. RangeError for a range outside the nodes or a name that is not there.
 */
export function slice(model: Model, range: { from: number; to: number }, options: SliceOptions): Model {
  const { graph } = model;
  const { from, to } = range;
  if (!(from >= 0 && from <= to && to <= graph.nodes.length)) throw new RangeError(`no nodes [${from}, ${to})`);
  const nodes = graph.nodes.slice(from, to);
  const made = new Set(nodes.flatMap((node) => node.outputs.filter((output) => output !== '')));
  const inputs = new Set<string>();
  const initializers = new Map<string, Tensor>();
  for (const name of nodes.flatMap(reads)) {
    const tensor = graph.initializers.get(name);
    if (tensor !== undefined) initializers.set(name, tensor);
    else if (!made.has(name)) inputs.add(name);
  }

  const outputs = options.outputs ?? readLater(graph.nodes.slice(to), graph.outputs, made);
  const types = elementTypes(model);
  const describe = (name: string): ValueInfo => {
    const declared =
      graph.valueInfo.get(name) ?? [...graph.inputs, ...graph.outputs].find((info) => info.name === name);
    const shape = options.shapes.get(name) ?? declared?.shape ?? null;
    return { name, type: types.get(name) ?? declared?.type ?? 'float32', shape };
  };
  for (const name of outputs) {
    if (!made.has(name) && !inputs.has(name)) throw new RangeError(`${name} is not in the nodes [${from}, ${to})`);
  }
  const fed = (options.fed ?? []).map((name): ValueInfo => {
    const tensor = initializers.get(name);
    if (tensor === undefined) throw new RangeError(`${name} is not an initializer of the nodes [${from}, ${to})`);
    initializers.delete(name);
    return { name, type: tensor.type, shape: tensor.dims };
  });
  return {
    ...model,
    graph: {
      name: graph.name,
      nodes,
      initializers,
      inputs: [...[...inputs].map(describe), ...fed],
      outputs: outputs.map(describe),
      valueInfo: new Map([...graph.valueInfo].filter(([name]) => made.has(name))),
    },
  };
}

/**
 * The activation tensors that a run must keep when it stops in front of node `position`: those made before (or fed as graph
 * inputs) that a later node reads or that are graph outputs, in the order they come into being.
 */
export function liveTensors(model: Model, position: number): string[] {
  const { graph } = model;
  if (!(position >= 0 && position <= graph.nodes.length)) throw new RangeError(`no position ${position}`);
  const made = new Set(graph.inputs.map((input) => input.name).filter((name) => !graph.initializers.has(name)));
  for (const node of graph.nodes.slice(0, position))
    for (const output of node.outputs) if (output !== '') made.add(output);
  return readLater(graph.nodes.slice(position), graph.outputs, made);
}

function readLater(later: readonly Node[], outputs: readonly ValueInfo[], made: ReadonlySet<string>): string[] {
  const needed = new Set([...later.flatMap(reads), ...outputs.map((output) => output.name)]);
  return [...made].filter((name) => needed.has(name));
}
