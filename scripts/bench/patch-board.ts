/** Plans of the patch benchmark on the emulated board: the real firmware runs their packed images, and counts instructions. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { McuTarget } from '../../agent/adapters/mcu-target.js';
import { buildImage, type ImageOptions } from '../../agent/core/image/build.js';
import { readDescription } from '../../agent/core/image/description.js';
import { LatencyTable } from '../../agent/core/latency.js';
import { type CodeLimits, classifyPatches } from '../../agent/core/plan/value-classes.js';
import type { LatencyOf } from '../../agent/core/plan/value-plan.js';
import { measuredCost, type PatchCut } from '../../agent/core/plan/value-problem.js';
import type { PreparedModel } from '../../agent/core/prepare.js';
import type { Affine } from '../../agent/core/quant/affine.js';
import { patchWindows } from '../../agent/steps/patch-simulation.js';
import { inputCodes } from '../../agent/steps/value-statistics.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { imageExtension } from '../../configs/contracts/image.js';
import { preloadedSlot } from '../../configs/contracts/mcu.js';
import { McuRefusal } from '../../firmware-bridge/link/connection.js';
import { Mcu } from '../../firmware-bridge/mcu.js';
import { EngineModel, packForCortexM } from '../../native/index.js';
import type { Widths } from './patch-subject.js';

/** Where instructions are counted. */
export const board = 'mps2-an386';
/** Inferences that are counted of each image. */
export const countedSamples = 2;
/** An emulator answers late on a busy machine. */
const replyTimeoutMs = 5000;

/** What was counted, or why nothing was. */
export type Counted =
  | { readonly instructions: number; readonly operators: readonly OperatorCount[] }
  | { readonly lacking: string };

/** Instructions of one operator of an image, in a stage over all patches. */
export interface OperatorCount {
  /** Operator of the model that it comes from. */
  readonly source: string;
  /** '' for kinds that have one kernel only. */
  readonly kernel: string;
  readonly instructions: number;
}

/** Share of a sample's patches that are outlier patches. */
export function outlierShareOf(sample: Float32Array, cut: PatchCut, limits: CodeLimits, grid: Affine): number {
  const image = { ...cut.stage.tensors[cut.stage.input]!, codes: inputCodes(sample, grid) };
  const classes = classifyPatches(image, patchWindows(cut), limits);
  return classes.filter((isOutlier) => isOutlier).length / classes.length;
}

/**
 * Samples of which as many patches are outlier patches as of all: those in the middle of equal parts of the samples in the order of
 * their shares.
 */
export function representative<T>(samples: readonly T[], shareOf: (sample: T) => number, count: number): T[] {
  const sorted = samples.map((sample) => ({ sample, share: shareOf(sample) })).sort((a, b) => a.share - b.share);
  const parts = Math.min(count, sorted.length);
  return Array.from({ length: parts }, (_, part) => sorted[Math.floor(((part + 0.5) * sorted.length) / parts)]!.sample);
}

/** What operators take on the board, layer by layer, at all of the widths that its kernels tell apart; null where there is no board. */
export async function instructionsOnBoard(
  prepared: PreparedModel,
  { activations, weights }: Widths,
  signal: AbortSignal,
): Promise<LatencyOf | null> {
  // What fewer bits of one gain without the other, kernels for both gain as well.
  const precisions = weights.flatMap((weightBits) =>
    activations
      .filter((activationBits) => activationBits === 8 || (activationBits === 4 && weightBits <= 4))
      .map((activationBits) => ({ weightBits, activationBits })),
  );
  try {
    const target = await McuTarget.open(`qemu-${board}`);
    const rows = await target.measure(prepared, prepared.operators, precisions, signal, () => {});
    const table = new LatencyTable(rows);
    return (operator, { weightBits, activationBits }) =>
      measuredCost(table, () => weightBits)(operator, activationBits);
  } catch (error) {
    if (error instanceof EdgeError && error.code === 'mcu/no-firmware') return null;
    throw error;
  }
}

/**
 * Mean instructions of an inference, from the codes of the input to the output, branches and tail. Throws where the board answers something
 * else than the engine does here.
 */
export async function countOnBoard(
  prepared: PreparedModel,
  precisions: Parameters<typeof buildImage>[1],
  options: ImageOptions,
  samples: readonly Float32Array[],
): Promise<Counted> {
  const plain = buildImage(prepared, precisions, options);
  const packed = buildImage(prepared, precisions, { ...options, packer: packForCortexM });
  const folder = await mkdtemp(join(tmpdir(), 'quantd-board-'));
  try {
    const preloaded = join(folder, `model${imageExtension}`);
    await writeFile(preloaded, packed.bytes);
    const mcu = await Mcu.open(`qemu-${board}`, { preloaded, replyTimeoutMs });
    const engine = new EngineModel(plain.bytes, { threads: 1 });
    try {
      return await countLoaded(mcu, engine, packed.bytes, samples);
    } finally {
      engine.close();
      await mcu.close();
    }
  } catch (error) {
    const isKnown = error instanceof McuRefusal || (error instanceof EdgeError && error.code === 'mcu/no-firmware');
    if (!isKnown) throw error;
    return { lacking: error instanceof McuRefusal ? error.status : 'no emulator' };
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function countLoaded(mcu: Mcu, engine: EngineModel, image: Uint8Array, samples: readonly Float32Array[]) {
  await mcu.load(preloadedSlot);
  let sum = 0;
  for (const sample of samples) {
    const { outputs, ticks } = await mcu.infer([sample]);
    const expected = await engine.run([sample]);
    const isSame = expected.every((values, output) =>
      values.every((value, index) => Object.is(value, outputs[output]![index])),
    );
    if (!isSame) throw new Error(`${board} answers something else than the engine`);
    sum += ticks;
  }
  const { operatorsAtInput } = await mcu.model();
  const operators: OperatorCount[] = [];
  for (const [index, source] of readDescription(image).operators.entries()) {
    if (index < operatorsAtInput) continue;
    const { minimum } = await mcu.measure({ first: index, count: 1, warmUps: 0, runs: 1 });
    operators.push({ source, kernel: await mcu.kernelOf(index), instructions: minimum });
  }
  return { instructions: sum / samples.length, operators };
}
