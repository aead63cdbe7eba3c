/**
 * Benchmarks: `npm run bench -- NAME [--out FILE] [MODEL...]`. Prints a table; with --out also writes JSON with machine and
 * commit. Models are those of the data folder and the bundled one, or those whose names begin with MODEL.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { HighsSolver } from '../agent/adapters/highs-solver.js';
import { HostRuntime } from '../agent/adapters/host-runtime.js';
import { nativeRounder } from '../agent/adapters/native-rounder.js';
import { OrtTarget } from '../agent/adapters/ort-target.js';
import { openEnergyMeter } from '../agent/adapters/power.js';
import { SqliteStore } from '../agent/adapters/sqlite-store.js';
import type { Ports } from '../agent/pipeline.js';
import { accuracyBench } from './bench/accuracy.js';
import { cortexMBench } from './bench/cortex-m.js';
import { dataFreeBench } from './bench/data-free.js';
import { engineBench } from './bench/engine.js';
import { fleetBench } from './bench/fleet.js';
import { kernelsBench } from './bench/kernels.js';
import { type BenchModel, benchModels, packageRoot } from './bench/models.js';
import { patchesBench } from './bench/patches.js';
import { plansBench } from './bench/plans.js';
import { predictionBench } from './bench/prediction.js';
import { rankingBench } from './bench/ranking.js';
import { searchBench } from './bench/search.js';
import { sensitivityBench } from './bench/sensitivity.js';
import { servingBench } from './bench/serving.js';

type Benchmark = (models: readonly BenchModel[], ports: Ports, signal: AbortSignal) => Promise<unknown> | unknown;

const benchmarks: Readonly<Record<string, { run: Benchmark; summary: string; counter?: string }>> = {
  accuracy: {
    run: accuracyBench,
    summary:
      'quality below 8 bits on our engine: the whole recipe beside rounding to nearest, and without each of its passes',
  },
  'cortex-m': {
    run: cortexMBench,
    summary: 'instructions of our kernels on an emulated Cortex-M4, beside the floors; what weights and scratch take',
    counter: 'instructions',
  },
  'data-free': {
    run: dataFreeBench,
    summary:
      'uniform int8 calibrated with samples and without any, on both targets, against labels and the float model',
  },
  engine: {
    run: engineBench,
    summary: 'our engine at every precision against ONNX Runtime float and int8, whole networks, one thread and two',
  },
  fleet: {
    run: fleetBench,
    summary:
      'a simulated fleet under the console: orders for all, restarts meanwhile, a rollout; nothing may be lost (QUANTD_FLEET=broker:devices,...)',
  },
  kernels: {
    run: kernelsBench,
    summary: 'single convolutions in our engine, by the fastest kernel of each precision, against ONNX Runtime',
  },
  patches: {
    run: patchesBench,
    summary:
      'patches with bits by value (QuantMCU) beside patch-based and layer-based int8: RAM, bit operations, top-1',
    counter: 'bit operations',
  },
  prediction: {
    run: predictionBench,
    summary: 'predicted against measured latency of three plans a model, before feedback',
  },
  search: {
    run: searchBench,
    summary: 'ways to choose a plan on the same tables, by measured KL at equal measured latency on our engine',
  },
  sensitivity: {
    run: sensitivityBench,
    summary:
      "estimators' predictions of whole plans at equal average bits against their true divergence, and what they cost",
  },
  ranking: {
    run: rankingBench,
    summary: 'estimators of single operators against the exact KL on held-out samples (Spearman), passes and seconds',
  },
  plans: {
    run: plansBench,
    summary: 'mixed plans against float and int8, a midpoint budget, an impossible budget, wall time',
  },
  serving: {
    run: servingBench,
    summary:
      'requests of an application while a model is quantized beside, and while models change; event loop of the daemon',
  },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { out: { type: 'string' }, help: { type: 'boolean' } },
});
const [name = '', ...only] = positionals;
const benchmark = benchmarks[name];
if (benchmark === undefined || values.help) {
  const list = Object.entries(benchmarks).map(([key, { summary }]) => `  ${key.padEnd(12)} ${summary}`);
  process.stderr.write(`npm run bench -- NAME [--out FILE] [MODEL...]\n${list.join('\n')}\n`);
  process.exit(values.help ? 0 : 2);
}

const folder = mkdtempSync(join(tmpdir(), 'quantd-bench-'));
const store = new SqliteStore(join(folder, 'state.db'));
const solver = new HighsSolver();
const target = new OrtTarget({ threads: 1, meter: await openEnergyMeter() });
const clock = { nanoseconds: () => process.hrtime.bigint(), now: () => new Date().toISOString() };
try {
  const ports: Ports = { runtime: new HostRuntime(), target, solver, rounder: nativeRounder, store, clock };
  const results = await benchmark.run(benchModels(process.env, only), ports, new AbortController().signal);
  if (values.out !== undefined) {
    const commit = execFileSync('git', ['rev-parse', 'HEAD'], { cwd: packageRoot, encoding: 'utf8' }).trim();
    const document = {
      benchmark: name,
      commit,
      measuredAt: clock.now(),
      counter: benchmark.counter ?? 'nanoseconds',
      machine: await target.identity(),
      results,
    };
    writeFileSync(values.out, `${JSON.stringify(document, null, 2)}\n`);
  }
} finally {
  await solver.close();
  store.close();
  rmSync(folder, { recursive: true, force: true });
}
