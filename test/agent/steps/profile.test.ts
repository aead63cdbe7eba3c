/** Rows of other devices on a machine that is made up: how much is measured, what is believed, and what is kept. */
import t from 'tap';
import { SqliteStore } from '../../../agent/adapters/sqlite-store.js';
import { runOverheadKey, speedReferenceKey } from '../../../agent/core/latency.js';
import type { Operator } from '../../../agent/core/onnx/model.js';
import { formatPrecision } from '../../../agent/core/precision.js';
import { type PreparedModel, prepare } from '../../../agent/core/prepare.js';
import { contentKey } from '../../../agent/digest.js';
import type { Job } from '../../../agent/pipeline.js';
import type { Comparison, DonorTables, Effort, Target, TargetIdentity } from '../../../agent/ports.js';
import { profile, profileKeys } from '../../../agent/steps/profile.js';
import type { LatencyRow, Precision } from '../../../configs/contracts/plan.js';
import { imageCard, NetworkBuilder } from '../../support/networks.js';
import { announceSeed, Random } from '../../support/seed.js';
import { clock, never, quiet } from '../../support/steps.js';

const seed = announceSeed();
const inputDims = [1, 3, 16, 16];
const precisions: readonly Precision[] = ([32, 8, 4, 2, 7, 6] as const).map((bits) => ({
  weightBits: bits,
  activationBits: bits,
}));
const identity: TargetIdentity = {
  kind: 'ort',
  processor: 'pretend',
  architecture: 'none',
  cores: 1,
  threads: 1,
  governor: 'unknown',
  powerMode: 'unknown',
  runtime: '',
  features: [],
  energyMeter: null,
};

function network(): PreparedModel {
  const builder = new NetworkBuilder(new Random(seed), inputDims);
  let last = 'x';
  for (let index = 0; index < 12; index++) last = builder.conv(last, { out: 8 + index });
  return prepare(builder.build([builder.gemm(builder.pooled(last), 4)]), imageCard('classification', inputDims));
}

const prepared = network();
const job = (variant: Job['variant']) => ({ prepared, variant, modelSha256: 'a'.repeat(64) }) as Job;

/** Rows that follow from key and precision alone, times how slow the machine is. */
class PretendMachine implements Target {
  readonly counter = 'nanoseconds';
  readonly kind: 'ort' | 'native';
  readonly #slowness: number;
  readonly efforts: Effort[] = [];
  timed = 0;

  constructor(kind: 'ort' | 'native', slowness = 1) {
    this.kind = kind;
    this.#slowness = slowness;
  }

  identity = async () => identity;
  saturates = async () => false;
  precisionsOf = () => precisions;

  async measure(
    _prepared: PreparedModel,
    operators: readonly Operator[],
    wanted: readonly Precision[],
    _signal: AbortSignal,
    _progress: unknown,
    effort: Effort = 'full',
  ): Promise<LatencyRow[]> {
    this.efforts.push(effort);
    this.timed += operators.length * wanted.length;
    const labels = wanted.map(formatPrecision);
    const rows = operators.flatMap(({ key }) => labels.map((label) => this.row(key, label)));
    return [...rows, this.row(runOverheadKey, 'float'), this.row(speedReferenceKey, 'float')];
  }

  row(operatorKey: string, precision: string): LatencyRow {
    const time = 50_000 + (Number.parseInt(contentKey([operatorKey, precision]).slice(0, 6), 16) % 200_000);
    const median = time * this.#slowness;
    const rest = { spread: 0, repeats: 1, throttled: false, energyJoules: null, measuredAt: clock.now() };
    return { operatorKey, precision, minimum: median, median, ...rest };
  }

  async compare(): Promise<Comparison> {
    throw new Error('nothing is compared here');
  }
}

const convolutions = [...new Map(prepared.operators.map((operator) => [operator.key, operator])).values()].filter(
  ({ weight }) => weight !== null,
);
const precisionsOf = ({ weight }: Operator) => (weight === null ? [] : precisions);
const all = convolutions.length * precisions.length;
const digest = 'd'.repeat(64);

/** Others' rows, as they measured them on such a machine; `change` makes them wrong. */
function donorsWith(machine: PretendMachine, change: (row: LatencyRow, index: number) => LatencyRow = (row) => row) {
  const asked: string[][] = [];
  const donors: DonorTables = {
    seed,
    offer: async (identityDigest, keys) => {
      asked.push([...keys]);
      const overhead = keys.find((key) => key.startsWith(runOverheadKey))!;
      const rows = convolutions.flatMap(({ key }) => precisions.map((each) => machine.row(key, formatPrecision(each))));
      const others = [machine.row(overhead, 'float'), machine.row(speedReferenceKey, 'float')];
      return { digest, identity: identityDigest, devices: 3, rows: [...rows, ...others].map(change) };
    },
  };
  return { donors, asked };
}

async function run(
  kind: 'ort' | 'native',
  target: PretendMachine,
  donors: DonorTables | null,
  store = new SqliteStore(':memory:'),
) {
  const ofJob = job(kind);
  const answer = await profile(ofJob, precisionsOf, { target, store, clock, donors }, never, quiet);
  const stored = store.latencyRows(contentKey(identity), profileKeys(ofJob));
  return { ...answer, stored, store };
}

for (const kind of ['ort', 'native'] as const) {
  t.test(`${kind}: a fifth of the rows at most is measured, the rest taken at this machine's speed`, async (t) => {
    const target = new PretendMachine(kind, 1.25);
    const { donors, asked } = donorsWith(new PretendMachine(kind));
    const { profiling, table, stored, store } = await run(kind, target, donors);
    t.same(asked, [profileKeys(job(kind))]);
    t.same(target.efforts, ['sample']);
    t.equal(target.timed, profiling.rowsMeasured);
    t.ok(profiling.rowsMeasured > 0 && profiling.rowsMeasured <= all / 5, `${profiling.rowsMeasured} of ${all}`);
    t.equal(profiling.rowsMeasured + profiling.rowsTaken, all);
    t.match(profiling.donor, { digest, devices: 3, isAccepted: true });
    for (const { key } of convolutions) {
      for (const precision of precisions.map(formatPrecision)) {
        const expected = target.row(key, precision).median;
        t.ok(Math.abs(table.median(key, precision) / expected - 1) < 1e-9, `${key} at ${precision}`);
      }
    }
    const own = stored.filter(({ donor }) => donor === undefined);
    t.equal(own.length, profiling.rowsMeasured + 1, 'what was measured is its own, and the speed reference');
    t.ok(stored.every((row) => row.donor === undefined || row.donor === digest));

    t.comment('afterwards everything is stored, and nobody is asked');
    const again = await run(kind, target, donors, store);
    t.match(again.profiling, { rowsMeasured: 0, rowsTaken: 0, donor: null });
    t.equal(asked.length, 1);

    t.comment('rows of others are forgotten, and measured in their turn');
    store.dropDonorRows(contentKey(identity), profileKeys(job(kind)));
    const measured = await run(kind, target, null, store);
    t.ok(measured.profiling.rowsMeasured >= all - own.length);
    t.ok(measured.stored.every(({ donor }) => donor === undefined));
  });

  t.test(`${kind}: a wrong or incomplete table is left, and everything measured here`, async (t) => {
    const honest = new PretendMachine(kind);
    const times = (row: LatencyRow, factor: number) =>
      row.operatorKey === speedReferenceKey
        ? row
        : { ...row, median: row.median * factor, minimum: row.minimum * factor };
    const twice = (row: LatencyRow) => times(row, 2);
    const lies = {
      twice: donorsWith(honest, twice),
      half: donorsWith(honest, (row) => times(row, 0.5)),
      'some twice': donorsWith(honest, (row, index) =>
        Math.floor(index / precisions.length) % 2 === 0 ? twice(row) : row,
      ),
      incomplete: donorsWith(honest, (row, index) => (index === 5 ? { ...row, operatorKey: 'another' } : row)),
    };
    for (const [name, { donors }] of Object.entries(lies)) {
      const target = new PretendMachine(kind);
      const { profiling, stored, table } = await run(kind, target, donors);
      t.equal(profiling.rowsTaken, 0, name);
      t.ok(profiling.rowsMeasured >= all, name);
      if (name === 'incomplete') t.equal(profiling.donor, null);
      else t.match(profiling.donor, { isAccepted: false }, name);
      t.ok(stored.every(({ donor }) => donor === undefined));
      const [first] = convolutions;
      t.equal(table.median(first!.key, 'W8A8'), target.row(first!.key, 'W8A8').median);
    }
  });

  t.test(`${kind}: with no console, or none that has a table, everything is measured as ever`, async (t) => {
    const none: DonorTables = { seed, offer: async () => null };
    for (const donors of [null, none]) {
      const target = new PretendMachine(kind);
      const { profiling } = await run(kind, target, donors);
      t.match(profiling, { rowsMeasured: all, rowsTaken: 0, donor: null });
      t.same(target.efforts, ['full']);
    }
  });
}
