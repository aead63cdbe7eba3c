import { EdgeError } from '../../../configs/contracts/errors.js';
import type { Graph, Node, ValueInfo } from './model.js';

/** Who makes and who reads each tensor of a graph. */
export interface GraphIndex {
  readonly producers: ReadonlyMap<string, Node>;
  /** In graph order; a node that reads a tensor twice is listed once. Subgraphs count as readers. */
  readonly consumers: ReadonlyMap<string, readonly Node[]>;
  /** Names of graph outputs. */
  readonly outputs: ReadonlySet<string>;
}

/** Who makes and who reads each tensor; takes one pass over the graph. */
export function indexGraph(graph: Graph): GraphIndex {
  const producers = new Map<string, Node>();
  const consumers = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    for (const output of node.outputs) if (output !== '') producers.set(output, node);
    for (const input of new Set(reads(node))) {
      const readers = consumers.get(input);
      if (readers === undefined) consumers.set(input, [node]);
      else readers.push(node);
    }
  }
  return { producers, consumers, outputs: new Set(graph.outputs.map((output) => output.name)) };
}

/** Every tensor a node reads, through its subgraphs too; with repeats, without omitted inputs. */
export function reads(node: Node): string[] {
  const inputs = node.inputs.filter((input) => input !== '');
  return node.captures === undefined ? inputs : [...inputs, ...node.captures];
}

/** The inputs a caller must feed: those that have no default value among the initializers. */
export function graphInputs(graph: Graph): ValueInfo[] {
  return graph.inputs.filter((input) => !graph.initializers.has(input.name));
}

/**
 * The only reader of a tensor, or null where there are several, none, or the tensor is also a graph output: the condition for
 * merging a node into its reader.
 */
export function soleConsumer(index: GraphIndex, tensor: string): Node | null {
  const readers = index.consumers.get(tensor);
  return readers?.length === 1 && readers[0] && !index.outputs.has(tensor) ? readers[0] : null;
}

/**
 * The nodes in an order where every tensor is made before it is read, as close to the given order as that allows: a list that is
 * already sorted comes back unchanged. Tensors that no node makes are taken to exist. A cycle is `model/malformed`.
 */
export function sortTopologically(nodes: readonly Node[]): Node[] {
  const producers = new Map<string, number>();
  nodes.forEach((node, position) => {
    for (const output of node.outputs) producers.set(output, position);
  });

  const sorted: Node[] = [];
  const state = new Uint8Array(nodes.length); // 0 new, 1 its inputs are being visited, 2 placed
  for (let start = 0; start < nodes.length; start++) {
    // Depth first with a stack of our own: the chain may be longer than the call stack.
    const stack = [start];
    while (stack.length > 0) {
      const position = stack[stack.length - 1] as number;
      const node = nodes[position] as Node;
      if (state[position] === 0) {
        state[position] = 1;
        // Reversed, because the last one pushed is placed first.
        for (const input of reads(node).reverse()) {
          const producer = producers.get(input);
          if (producer === undefined || state[producer] === 2) continue;
          if (state[producer] === 1) {
            throw new EdgeError('model/malformed', `the graph has a cycle through ${node.name}`, {
              subject: node.name,
            });
          }
          stack.push(producer);
        }
      } else {
        stack.pop();
        if (state[position] === 1) {
          state[position] = 2;
          sorted.push(node);
        }
      }
    }
  }
  return sorted;
}

/** The graph with the nodes, initializers and declared types that its outputs need, and no others. Inputs stay as they are. */
export function pruneUnused(graph: Graph): Graph {
  const needed = new Set(graph.outputs.map((output) => output.name));
  const nodes: Node[] = [];
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((output) => needed.has(output))) continue;
    nodes.push(node);
    for (const input of reads(node)) needed.add(input);
  }
  nodes.reverse();

  const listed = new Set(graph.inputs.map((input) => input.name));
  const live = (name: string): boolean => needed.has(name) || listed.has(name);
  for (const node of nodes) for (const output of node.outputs) needed.add(output);
  return {
    ...graph,
    nodes,
    initializers: filterMap(graph.initializers, live),
    valueInfo: filterMap(graph.valueInfo, live),
  };
}

/** The graph with every use of tensor `from` reading `to` instead. Graph outputs keep their names, so `from` must not be one. */
export function redirectReads(graph: Graph, renames: ReadonlyMap<string, string>): Graph {
  if (renames.size === 0) return graph;
  const target = (name: string): string => {
    let current = name;
    for (let next = renames.get(current); next !== undefined; next = renames.get(current)) current = next;
    return current;
  };
  const nodes = graph.nodes.map((node) =>
    node.inputs.some((input) => renames.has(input)) ? { ...node, inputs: node.inputs.map(target) } : node,
  );
  return { ...graph, nodes };
}

function filterMap<Value>(map: ReadonlyMap<string, Value>, keep: (key: string) => boolean): ReadonlyMap<string, Value> {
  return new Map([...map].filter(([key]) => keep(key)));
}
