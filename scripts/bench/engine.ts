/**
 * The engine against ONNX Runtime, whole networks from input to output and single convolutions, on one thread and two. Ranges and (for
 * ResNet-18) weights are arbitrary: kernels take the same time whatever the values, except that weights decide what can be certified.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compareArtifacts } from '../../agent/adapters/compare-models.js';
import { NativeTarget } from '../../agent/adapters/native-target.js';
import { fastestKernel } from '../../agent/core/image/precisions.js';
import { LatencyTable } from '../../agent/core/latency.js';
import type { Operator } from '../../agent/core/onnx/model.js';
import { parsePrecision } from '../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../agent/core/prepare.js';
import { canRunInt8 } from '../../agent/core/quant/qdq.js';
import { xorshift32 } from '../../agent/core/random.js';
import type { Ports } from '../../agent/pipeline.js';
import { apply, floatModel } from '../../agent/steps/apply.js';
import { activationTensors } from '../../agent/steps/calibrate.js';
import { EngineModel, machineFeatures } from '../../native/index.js';
import { type BenchModel, openBenchModel } from './models.js';
import { resnet18 } from './resnet18.js';

const enginePrecisions = ['W8A8', 'W7A8', 'W4A8', 'W4A6', 'W4A4', 'W2A2'] as const;
const quiet = () => {};

/** Milliseconds of one artifact, and how many times as fast as ONNX Runtime's int8 it was in the same rounds. */
interface Row {
  readonly model: string;
  readonly form: string;
  readonly threads: number;
  readonly minimumMs: number;
  readonly medianMs: number;
  /** By minimum; above 1 is faster than ONNX Runtime's int8. */
  readonly timesInt8: number;
}

/** Whole networks. */
export async function engineBench(models: readonly BenchModel[], _ports: Ports, signal: AbortSignal): Promise<Row[]> {
  const networks: { name: string; prepared: PreparedModel }[] = [];
  for (const model of models) networks.push({ name: model.name, prepared: (await openBenchModel(model)).prepared });
  networks.push({ name: 'resnet18-224', prepared: prepare(resnet18(), null) });
  if (process.arch === 'x64')
    print(`vector extensions that the engine uses here: ${machineFeatures().join(', ') || 'none'}`);
  const rows: Row[] = [];
  for (const { name, prepared } of networks) {
    for (const threads of [1, 2]) {
      const forms = await formsOf(prepared, threads, signal);
      const comparison = await compareArtifacts(forms, feedsOf(prepared), threads, signal, quiet);
      const int8 = comparison.timings[1]!.minimum;
      for (const { name: form, minimum, median } of comparison.timings) {
        const row = {
          model: name,
          form,
          threads,
          minimumMs: minimum / 1e6,
          medianMs: median / 1e6,
          timesInt8: int8 / minimum,
        };
        rows.push(row);
        const columns = [name.padEnd(26), form.padEnd(12), `${threads} thr`, ms(row.minimumMs), ms(row.medianMs)];
        print(`${columns.join('  ')}  x${row.timesInt8.toFixed(2)}`);
      }
      if (threads === 1) for (const line of memoryLines(name, forms)) print(line);
    }
  }
  return rows;
}

/** ONNX Runtime's two forms first, then images with the kernels that measured fastest here. */
async function formsOf(prepared: PreparedModel, threads: number, signal: AbortSignal) {
  const ranges = new Map(activationTensors(prepared).map((name) => [name, { minimum: -4, maximum: 4 }]));
  const recipe = { ranges, rangesByBits: {}, biasCorrections: new Map(), channelMeans: null, rounded: () => null };
  const w8a8 = parsePrecision('W8A8');
  const int8 = new Map(prepared.operators.filter((o) => canRunInt8(o)).map(({ name }) => [name, w8a8] as const));
  const target = new NativeTarget({ threads });
  const precisions = enginePrecisions.map(parsePrecision);
  const table = new LatencyTable(await target.measure(prepared, prepared.operators, precisions, signal, quiet));
  const saturates = await target.saturates();
  const forms = [
    { name: 'ort-float', bytes: floatModel(prepared) },
    { name: 'ort-int8', bytes: apply(prepared, int8, recipe, { variant: 'ort', saturates }) },
  ];
  for (const precision of enginePrecisions) {
    const wanted = parsePrecision(precision);
    const readsInput = (operator: Operator) => operator.inputs.includes(prepared.card.input.name);
    const chosen = new Map(
      prepared.operators
        .filter((operator) => operator.weight !== null)
        .map((operator) => [operator.name, readsInput(operator) ? { ...wanted, activationBits: 8 as const } : wanted]),
    );
    const kernelOf = (operator: Operator) =>
      fastestKernel(table, operator, chosen.get(operator.name)!) ?? fastestKernel(table, operator, wanted);
    const form = { variant: 'native' as const, saturates, kernelOf };
    forms.push({ name: `native ${precision}`, bytes: apply(prepared, chosen, recipe, form) });
  }
  return forms;
}

function feedsOf(prepared: PreparedModel) {
  const random = xorshift32(7);
  const data = Float32Array.from({ length: prepared.inputDims.reduce((a, b) => a * b, 1) }, () => random() * 2 - 1);
  return new Map([[prepared.card.input.name, { dims: prepared.inputDims, data }]]);
}

/** What the engine's W8A8 takes, and the most that a process takes that runs nothing but one artifact. */
function memoryLines(name: string, forms: readonly { name: string; bytes: Uint8Array }[]): string[] {
  const kb = (bytes: number) => `${Math.round(bytes / 1024)} KB`;
  const model = new EngineModel(forms[2]!.bytes, { threads: 1 });
  const { preparedBytes, arenaBytes, scratchBytes } = model.memory;
  model.close();
  const parts = `image ${kb(forms[2]!.bytes.length)}, packed ${kb(preparedBytes)}, arena ${kb(arenaBytes)}, scratch ${kb(scratchBytes)}`;
  const folder = mkdtempSync(join(tmpdir(), 'quantd-memory-'));
  try {
    const processes = forms.slice(0, 3).map(({ name: form, bytes }, index) => {
      const path = join(folder, `model.${index === 2 ? 'qimg' : 'onnx'}`);
      writeFileSync(path, bytes);
      const child = fileURLToPath(new URL('./memory-child.js', import.meta.url));
      const { stdout } = spawnSync(process.execPath, [child, path], { encoding: 'utf8' });
      return `${form} ${kb(Number(stdout) * 1024)}`;
    });
    return [`${name.padEnd(26)}  W8A8: ${parts}`, `${name.padEnd(26)}  largest process: ${processes.join(', ')}`];
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function ms(value: number): string {
  return `${value.toFixed(3)} ms`.padStart(12);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
