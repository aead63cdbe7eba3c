import type { ModelCard } from '../../configs/contracts/card.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { fold } from './onnx/fold.js';
import type { BatchNormStatistics } from './onnx/fold-affine.js';
import { graphInputs } from './onnx/graph.js';
import { widenHalves } from './onnx/half.js';
import type { Model, Operator, Shapes } from './onnx/model.js';
import { listOperators } from './onnx/operators.js';
import { inferShapes } from './onnx/shapes.js';
import { elementTypes } from './onnx/types.js';
import { upgrade } from './onnx/upgrade.js';
import { inferCard, inputDims } from './preprocess.js';

/** A float model ready for planning: in float32, brought to the working opset, folded, and cut into operators. */
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
  /** Tensors of float32, the only ones that are calibrated, assessed and quantized. */
  readonly floatTensors: ReadonlySet<string>;
  /** Tensor in front of the final Softmax where there is one (reshaped behind it or not), else the first graph output. */
  readonly logits: string;
  readonly endsInSoftmax: boolean;
  readonly batchNorms: readonly BatchNormStatistics[];
  readonly macs: number;
  readonly parameters: number;
}

/** The pipeline feeds one float input: anything else is refused here, before anything long begins. */
function checkInput(model: Model, card: ModelCard): void {
  const inputs = graphInputs(model.graph);
  if (inputs.length !== 1 || inputs[0]!.type !== 'float32') {
    const found = inputs.map(({ name, type }) => `${name} (${type})`).join(', ') || 'none';
    throw new EdgeError(
      'model/unsupported',
      `only models with one float32 input can be quantized; this one has: ${found}`,
      {
        subject: model.graph.name || 'model',
        hint: 'Export the part of the model between its one image (or vector) input and its outputs.',
      },
    );
  }
  if (inputs[0]!.name !== card.input.name) {
    throw new EdgeError(
      'card/invalid',
      `the card names the input "${card.input.name}", the model has "${inputs[0]!.name}"`,
      {
        subject: card.input.name,
      },
    );
  }
  if (card.input.layout.length !== card.input.shape.length) {
    throw new EdgeError(
      'card/invalid',
      `the card's layout ${card.input.layout} does not name the ${card.input.shape.length} axes of its shape`,
      { subject: card.input.name },
    );
  }
  const open = card.input.shape.findIndex(
    (dim, axis) => axis > 0 && dim === null && typeof inputs[0]!.shape?.[axis] !== 'number',
  );
  if (open > 0) {
    throw new EdgeError('model/unsupported', `axis ${open} of input "${card.input.name}" has no size`, {
      subject: card.input.name,
      hint: 'Give the shape in a model card, or export the model with a fixed input size.',
    });
  }
}

/** Elements of all float constants, each counted once however many operators read it. */
function parameterCount(model: Model): number {
  const constants = [...model.graph.initializers.values()].filter(({ type }) => /float/.test(type));
  return constants.reduce((sum, { dims }) => sum + dims.reduce((a, b) => a * b, 1), 0);
}

/** Operators that leave the values and their order as they are. */
const reshaping: ReadonlySet<string> = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze']);

/** The operator that computes a tensor; what it is reshaped by afterwards is passed over. */
function lastComputation(operators: readonly Operator[], tensor: string): Operator | undefined {
  const writer = operators.find((operator) => operator.outputs.includes(tensor));
  const isReshaping = writer !== undefined && reshaping.has(writer.op) && writer.inputs.length === 1;
  return isReshaping ? lastComputation(operators, writer.inputs[0]!) : writer;
}

/** Prepares a decoded model; `model/*` errors say what about it is not supported. */
export function prepare(given: Model, givenCard: ModelCard | null): PreparedModel {
  const source = widenHalves(given);
  const card = givenCard ?? inferCard(source);
  checkInput(source, card);
  const inputShapes = new Map([[card.input.name, card.input.shape.map((dim) => dim ?? 1)]]);
  const upgraded = upgrade(source, inferShapes(source, inputShapes));
  const { model: folded, batchNorms } = fold(upgraded, inputShapes);
  const shapes = inferShapes(folded, inputShapes);
  const operators = listOperators(folded, shapes);
  // Nodes in operator order (still topological: an operator's later nodes depend on its earlier ones alone), so that a position
  // between operators is a position between nodes.
  const model = { ...folded, graph: { ...folded.graph, nodes: operators.flatMap((operator) => operator.nodes) } };
  const output = model.graph.outputs[0]!.name;
  const last = lastComputation(operators, output);
  const endsInSoftmax = last?.op === 'Softmax' && last.inputs.length === 1;
  return {
    card,
    hasCard: givenCard !== null,
    model,
    shapes,
    operators,
    inputDims: inputDims(card, shapes),
    floatTensors: new Set([...elementTypes(model)].filter(([, type]) => type === 'float32').map(([name]) => name)),
    logits: endsInSoftmax ? last.inputs[0]! : output,
    endsInSoftmax,
    batchNorms,
    macs: operators.reduce((sum, operator) => sum + operator.macs, 0),
    parameters: parameterCount(model),
  };
}
