/** Plans for targets with little room: what they predict against images as they are written, what fits against trying everything. */
import t from 'tap';
import { buildImage, type ImagePatches } from '../../../agent/core/image/build.js';
import { enginePrecisions } from '../../../agent/core/image/precisions.js';
import { fitToRoom, type Room, uniformInt8 } from '../../../agent/core/image/room.js';
import { LatencyTable } from '../../../agent/core/latency.js';
import { listStages } from '../../../agent/core/plan/patch-geometry.js';
import { costPatches } from '../../../agent/core/plan/patches.js';
import { planOf, precisionsOf, uniformPlan } from '../../../agent/core/plan/plan.js';
import { evaluate, validateProblem } from '../../../agent/core/plan/problem.js';
import { unitsOf } from '../../../agent/core/plan/units.js';
import { formatPrecision } from '../../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { SensitivityTable } from '../../../agent/core/sensitivity/table.js';
import { type ArtifactForm, apply, applyImage } from '../../../agent/steps/apply.js';
import { planningProblem } from '../../../agent/steps/planning-problem.js';
import type { QuantizationRecipe } from '../../../agent/steps/tune.js';
import { EdgeError } from '../../../configs/contracts/errors.js';
import type { LatencyRow } from '../../../configs/contracts/plan.js';
import { packForCortexM } from '../../../native/index.js';
import { randomNetwork } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';

const seed = announceSeed();
const besideBytes = 5000;
const roomOf = (ramBytes: number): Room => ({ ramBytes, flashBytes: 2 ** 20, besideArena: () => besideBytes });
const form: ArtifactForm = { variant: 'native', saturates: false, packer: packForCortexM };

function recipeFor(prepared: PreparedModel): QuantizationRecipe {
  const tensors = [prepared.card.input.name, ...prepared.operators.flatMap(({ outputs }) => outputs)];
  const ranges = new Map(tensors.map((name) => [name, { minimum: -4, maximum: 4 }]));
  return { ranges, rangesByBits: {}, biasCorrections: new Map(), channelMeans: null, rounded: () => null };
}

/** A problem of a model on a board, with rows that say nothing, and the random network's own recipe. */
function problemOf(prepared: PreparedModel, room: Room, ramBytes?: number) {
  const row = (operatorKey: string, precision: string): LatencyRow => {
    const rest = { spread: 0, repeats: 1, throttled: false, energyJoules: null, measuredAt: '' };
    return { operatorKey, precision, minimum: 10, median: 10, ...rest };
  };
  const allowed = (operator: (typeof prepared.operators)[number]) => enginePrecisions(prepared, operator);
  const rows = prepared.operators.flatMap((operator) =>
    allowed(operator).map((precision) => row(operator.key, formatPrecision(precision))),
  );
  const sensitivity = new SensitivityTable({
    ...{ estimator: '', samples: 1, forwards: 0, seconds: 0 },
    weights: Object.fromEntries(prepared.operators.map(({ name }) => [name, { '8': 0, '4': 1, '2': 2 }])),
    activations: {},
  });
  const budget = ramBytes === undefined ? {} : { ramBytes };
  const recipe = recipeFor(prepared);
  const table = new LatencyTable(rows);
  return { ...planningProblem({ prepared, budget, room, allowed, table, sensitivity, recipe, form }), recipe };
}

t.test('the bytes and the arena of a plan are those of its image with weights packed for Cortex-M', async (t) => {
  for (let round = 0; round < 12; round++) {
    const random = new Random(seed + round);
    const prepared = prepare(randomNetwork(seed + round, 8), null);
    const { problem, form: own, recipe, fit } = problemOf(prepared, roomOf(2 ** 24));
    validateProblem(problem);
    t.equal(fit!.patches, null);
    for (let draw = 0; draw < 4; draw++) {
      const assignment = new Array<number>(problem.operators.length).fill(0);
      for (const { operators } of unitsOf(problem)) {
        const choice = random.below(problem.operators[operators[0]!]!.choices.length);
        for (const operator of operators) assignment[operator] = choice;
      }
      const plan = planOf(problem, assignment);
      const { bytes, arenaBytes } = applyImage(prepared, precisionsOf(plan), recipe, own);
      t.equal(plan.costs.ramBytes, arenaBytes);
      // Tables of functions follow from the bits on either side, and equal ones are stored once.
      const tables = prepared.operators.filter(({ weight }) => weight === null).length;
      const off = plan.costs.bytes - bytes.length;
      t.ok(Math.abs(off) <= 272 * tables + 64, `${plan.costs.bytes} predicted, ${bytes.length} written`);
    }
    for (const precision of ['W8A8', 'W4A8']) {
      const plan = uniformPlan(problem, precision);
      const { length } = apply(prepared, precisionsOf(plan), recipe, own);
      t.ok(Math.abs(plan.costs.bytes - length) <= 64, `${precision}: ${plan.costs.bytes} predicted, ${length} written`);
    }
  }
});

/** All cuts of a model as images, by brute force. */
function allCuts(prepared: PreparedModel): { patches: ImagePatches; arenaBytes: number; macs: number }[] {
  const memory = { bitsOf: () => 8, isInputStreamed: true, isInPlace: true };
  return listStages(prepared).flatMap((stage) => {
    const { rows, columns } = stage.tensors[stage.output]!;
    const cuts = [];
    for (let down = 1; down <= Math.min(rows, 8); down++) {
      for (let across = 1; across <= Math.min(columns, 8); across++) {
        const grid = { rows: down, columns: across };
        const patches = { split: stage.split, grid, isInputStreamed: true };
        try {
          const { arenaBytes } = build(prepared)(patches);
          const { clipped, layered } = costPatches(prepared, stage, grid, memory).macs;
          cuts.push({ patches, arenaBytes, macs: clipped - layered });
        } catch (error) {
          if (!(error instanceof EdgeError) || error.code !== 'model/unsupported') throw error;
        }
      }
    }
    return cuts;
  });
}

const build = (prepared: PreparedModel) => (patches: ImagePatches | null) =>
  buildImage(prepared, uniformInt8(prepared), {
    rangeOf: () => ({ minimum: -4, maximum: 4 }),
    pairSafe: false,
    biasCorrection: () => null,
    patches,
  });

t.test('what fits is found, and the fastest of it; what does not is told with the bytes that lack', async (t) => {
  let patched = 0;
  for (let round = 0; round < 10; round++) {
    const random = new Random(seed + round);
    const prepared = prepare(randomNetwork(seed + round, 5), null);
    const layered = build(prepared)(null).arenaBytes;
    const cuts = allCuts(prepared);
    const least = Math.min(layered, ...cuts.map(({ arenaBytes }) => arenaBytes));
    for (const ceiling of [layered, layered - 1, least, least + random.below(layered - least + 1), least - 1]) {
      const what = `round ${round}: ${ceiling} of ${least} to ${layered}`;
      const fitting = cuts.filter(({ arenaBytes }) => arenaBytes <= ceiling);
      const macs = ({ macs }: { macs: number }) => macs;
      const onBoard = () => fitToRoom(prepared, roomOf(ceiling + besideBytes), {}, build(prepared), macs);
      if (layered <= ceiling) t.equal(onBoard().patches, null, what);
      else if (fitting.length > 0) {
        patched++;
        const { patches, arenaBytes, layeredArenaBytes, limits } = onBoard();
        t.equal(build(prepared)(patches).arenaBytes, arenaBytes);
        t.ok(arenaBytes <= ceiling, what);
        const chosen = cuts.find((cut) => JSON.stringify(cut.patches) === JSON.stringify(patches))!;
        t.ok(chosen.macs <= Math.min(...fitting.map(macs)) + 1e-3, `${what}: none that fits is faster`);
        t.match({ layeredArenaBytes, limits }, { layeredArenaBytes: layered, limits: { ramBytes: ceiling } });
      } else {
        t.throws(onBoard, {
          code: 'mcu/no-room',
          message: /bytes of RAM on the board, \d+ more than/,
          hint: /smaller model/,
        });
        // Asked for by the budget alone, it is for the planner to say.
        const fit = fitToRoom(prepared, roomOf(2 ** 24), { ramBytes: ceiling }, build(prepared), macs);
        t.ok(fit.arenaBytes > ceiling && fit.arenaBytes <= layered, what);
      }
    }
  }
  t.ok(patched > 5, `${patched} were cut`);
});

t.test('with patches, operators of the stage take as much longer as they are computed more often', async (t) => {
  let cuts = 0;
  for (let round = 0; round < 10 && cuts < 3; round++) {
    const prepared = prepare(randomNetwork(seed + round, 6), null);
    const plain = problemOf(prepared, roomOf(2 ** 24));
    const { problem, fit, form: own, recipe } = problemOf(prepared, roomOf(2 ** 24), plain.fit!.arenaBytes - 1);
    if (fit!.patches === null) continue;
    cuts++;
    const assignment = problem.operators.map(() => 0);
    const expected = prepared.operators.reduce(
      (sum, { name }, index) =>
        sum + plain.problem.operators[index]!.choices[0]!.costs.latency * (fit!.shares.get(name) ?? 1),
      0,
    );
    t.ok(Math.abs(evaluate(problem, assignment).latency - expected) < 1e-6 * expected);
    t.equal(evaluate(problem, assignment).ramBytes, fit!.arenaBytes);
    const image = apply(prepared, precisionsOf(planOf(problem, assignment)), recipe, own);
    t.ok(image.length > 0);
  }
  t.ok(cuts > 0);
});
