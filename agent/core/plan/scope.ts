/** Which operators of a model a plan has a say in. */
import type { Operator } from '../onnx/model.js';
import type { PreparedModel } from '../prepare.js';

/** Operators of unknown type or shape are not timed: they run as they are in every plan. */
export function canBeTimed(operator: Operator, prepared: PreparedModel): boolean {
  const isKnown = (name: string) => prepared.shapes.has(name) && prepared.floatTensors.has(name);
  const hasSubgraphs = operator.nodes.some((node) => (node.captures?.length ?? 0) > 0);
  return (
    [...operator.inputs, ...operator.outputs].every(isKnown) &&
    !hasSubgraphs &&
    operator.inputs.length > 0 &&
    operator.outputs.length > 0 &&
    isSelfContained(operator, prepared)
  );
}

/** Everything a branch of a bundle needs: float inputs of known shape, constants for the rest. */
function isSelfContained(operator: Operator, prepared: PreparedModel): boolean {
  const known = new Set([...operator.inputs, ...operator.nodes.flatMap((node) => node.outputs)]);
  return operator.nodes.every((node) =>
    node.inputs.every((name) => name === '' || known.has(name) || prepared.model.graph.initializers.has(name)),
  );
}

/**
 * Operators without weights between the last weighted ones and the graph outputs. They stay float: they are cheap, and rounding
 * what leaves the model (scores, boxes) to 8 bits is the costliest rounding there is.
 */
export function outputTail(prepared: PreparedModel): Set<Operator> {
  const tail = new Set<Operator>();
  const outputs = new Set(prepared.model.graph.outputs.map((output) => output.name));
  for (const operator of [...prepared.operators].reverse()) {
    const readers = prepared.operators.filter((reader) =>
      reader.inputs.some((name) => operator.outputs.includes(name)),
    );
    const endsHere = operator.outputs.some((name) => outputs.has(name)) || readers.length > 0;
    if (operator.weight === null && endsHere && readers.every((reader) => tail.has(reader))) tail.add(operator);
  }
  return tail;
}
