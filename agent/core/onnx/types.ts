import type { ElementType, Model } from './model.js';
import { operatorRow } from './operator-table.js';

/** Element type of every tensor of a model, by name; absent behind operators we do not know and without a declared type. */
export function elementTypes(model: Model): ReadonlyMap<string, ElementType> {
  const { graph } = model;
  const types = new Map<string, ElementType>();
  for (const input of graph.inputs) types.set(input.name, input.type);
  for (const tensor of graph.initializers.values()) types.set(tensor.name, tensor.type);
  const declared = new Map(graph.valueInfo);
  for (const output of graph.outputs) declared.set(output.name, output);
  for (const node of graph.nodes) {
    const row = operatorRow(node);
    const inputs = node.inputs.map((input) => types.get(input));
    node.outputs.forEach((output, position) => {
      const inferred =
        (position > 0 && node.op !== 'Split') || row === undefined
          ? undefined
          : row.outputType
            ? row.outputType(node, inputs)
            : inputs[0];
      const type = inferred ?? declared.get(output)?.type;
      if (output !== '' && type !== undefined) types.set(output, type);
    });
  }
  return types;
}
