import type { ModelCard } from '../../configs/contracts/card.js';
import { fold } from './onnx/fold.js';
import type { BatchNormStatistics } from './onnx/fold-affine.js';
import type { Model, Operator, Shapes } from './onnx/model.js';
import { listOperators } from './onnx/operators.js';
import { inferShapes } from './onnx/shapes.js';
import { upgrade } from './onnx/upgrade.js';
import { inferCard, inputDims } from './preprocess.js';

/** A float model ready for planning: brought to the working opset, folded, and cut into operators. */
export interface PreparedModel {
  readonly card: ModelCard;
  /** False where no card was given and this one was made up from the graph. */
  readonly hasCard: boolean;
  /** Folded; what plans are applied to. */
  readonly model: Model;
  readonly shapes: Shapes;
  readonly operators: readonly Operator[];
  /** Shape of one sample, batch 1. */
  readonly inputDims: readonly number[];
  /** Tensor in front of the final Softmax where there is one, else the first graph output. */
  readonly logits: string;
  readonly endsInSoftmax: boolean;
  readonly batchNorms: readonly BatchNormStatistics[];
  readonly macs: number;
  readonly parameters: number;
}

/** Prepares a decoded model; `model/*` errors say what about it is not supported. */
export function prepare(source: Model, givenCard: ModelCard | null): PreparedModel {
  const card = givenCard ?? inferCard(source);
  const inputShapes = new Map([[card.input.name, card.input.shape.map((dim) => dim ?? 1)]]);
  const upgraded = upgrade(source, inferShapes(source, inputShapes));
  const { model: folded, batchNorms } = fold(upgraded, inputShapes);
  const shapes = inferShapes(folded, inputShapes);
  const operators = listOperators(folded, shapes);
  // Nodes in operator order (still topological: an operator's later nodes depend on its earlier ones alone), so that a position
  // between operators is a position between nodes.
  const model = { ...folded, graph: { ...folded.graph, nodes: operators.flatMap((operator) => operator.nodes) } };
  const output = model.graph.outputs[0]!.name;
  const last = operators.find((operator) => operator.outputs.includes(output));
  const endsInSoftmax = last?.op === 'Softmax' && last.inputs.length === 1;
  return {
    card,
    hasCard: givenCard !== null,
    model,
    shapes,
    operators,
    inputDims: inputDims(card, shapes),
    logits: endsInSoftmax ? last.inputs[0]! : output,
    endsInSoftmax,
    batchNorms,
    macs: operators.reduce((sum, operator) => sum + operator.macs, 0),
    parameters: operators.reduce((sum, operator) => sum + operator.parameters, 0),
  };
}
