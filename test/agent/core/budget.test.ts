import fc from 'fast-check';
import t from 'tap';
import { type Correction, ceilingsOf, latencyCeiling, latencyRatio, parseBudget } from '../../../agent/core/budget.js';
import { announceSeed } from '../../support/seed.js';

const seed = announceSeed();

t.test('every form of the command line becomes its field, in JSON units', async (t) => {
  const forms = {
    'latency=12ms': { latencyMs: 12 },
    'latency=1.5ms': { latencyMs: 1.5 },
    'latency=800us': { latencyMs: 0.8 },
    'latency=0.7x': { latencyRatio: 0.7 },
    'size=2MB': { sizeBytes: 2 * 1024 ** 2 },
    'size=100B': { sizeBytes: 100 },
    'ram=256KB': { ramBytes: 256 * 1024 },
    'flash=1.5MB': { flashBytes: 1.5 * 1024 ** 2 },
    'energy=30mJ': { energyMj: 30 },
    'sensitivity=0.05': { sensitivity: 0.05 },
    'sensitivity=1e-3': { sensitivity: 0.001 },
    'sensitivity=0': { sensitivity: 0 },
    'drop=1%': { drop: 0.01 },
    'drop=0%': { drop: 0 },
    'agreement=99.5%': { agreement: 0.995 },
    '': {},
    ' latency = 12ms , drop=1% ': { latencyMs: 12, drop: 0.01 },
    'latency=0.5x,size=1MB,ram=1KB,flash=1KB,energy=1mJ,drop=100%,agreement=0%': {
      latencyRatio: 0.5,
      sizeBytes: 1024 ** 2,
      ramBytes: 1024,
      flashBytes: 1024,
      energyMj: 1,
      drop: 1,
      agreement: 0,
    },
  };
  for (const [text, budget] of Object.entries(forms)) t.strictSame(parseBudget(text), budget, text);
});

t.test('anything else is budget/invalid and names the part that is wrong', async (t) => {
  const wrong = [
    'latency',
    'latency=',
    'latency=12',
    'latency=ms',
    'latency=12s',
    'latency=-1ms',
    'latency=0ms',
    'latency=NaNms',
    'latency=Infinityms',
    'latency=12ms=13',
    'size=2',
    'size=0KB',
    'size=0.1B',
    'drop=1',
    'drop=0.01',
    'sensitivity=',
    'sensitivity=5%',
    'sensitivity=-1',
    'sensitivity=1.2.3',
    'sensitivity=1e999',
    'sensitivity=0x5',
    'drop=-1%',
    'drop=101%',
    'agreement=%',
    'speed=1ms',
    'constructor=1ms',
    '=1ms',
  ];
  for (const part of wrong) {
    t.throws(
      () => parseBudget(`ram=1KB,${part}`),
      { code: 'budget/invalid', subject: part, hint: /latency=12ms/ },
      part,
    );
  }
  t.throws(() => parseBudget('latency=12ms,latency=0.5x'), { code: 'budget/invalid' });
});

const positive = fc.double({ min: 1e-3, max: 1e6, noNaN: true });
const corrections = fc.array(
  fc.record<Correction>({
    predictedLatency: positive,
    measuredLatency: positive,
    predictedBytes: positive,
    measuredBytes: positive,
  }),
  { maxLength: 5 },
);

t.test(
  'a latency ceiling is below every prediction that missed it, and never above what was asked for in measured units',
  async () => {
    fc.assert(
      fc.property(positive, corrections, fc.double({ min: 0.2, max: 5, noNaN: true }), (latencyMs, measured, prior) => {
        const wanted = latencyMs * 1e6;
        const scaled = measured.map((row) => ({
          ...row,
          predictedLatency: row.predictedLatency * 1e6,
          measuredLatency: row.measuredLatency * 1e6,
        }));
        const { latency } = ceilingsOf({ latencyMs }, 1, scaled, prior);
        const misses = scaled.filter((row) => row.measuredLatency > wanted);
        return (
          latency! > 0 &&
          latency! < wanted / latencyRatio(scaled, prior) &&
          misses.every((row) => latency! < row.predictedLatency)
        );
      }),
      { numRuns: 500, seed },
    );
  },
);

t.test(
  'stored bytes leave room for what artifacts were larger than predicted; the smaller of size and flash counts',
  async (t) => {
    const row = { predictedLatency: 1, measuredLatency: 1, predictedBytes: 1000, measuredBytes: 1200 };
    t.equal(ceilingsOf({ sizeBytes: 5000 }, 1, [], 1).bytes, 5000);
    t.equal(ceilingsOf({ sizeBytes: 5000, flashBytes: 4000 }, 1, [row], 1).bytes, 3800);
    t.equal(
      ceilingsOf({ flashBytes: 4000 }, 1, [{ ...row, measuredBytes: 900 }], 1).bytes,
      4000,
      'smaller ones take nothing',
    );
  },
);

t.test('only what the budget names is a ceiling; energy is in joules', async (t) => {
  t.strictSame(ceilingsOf({}, 1e6, [], 1), {});
  t.strictSame(ceilingsOf({ drop: 0.01, agreement: 0.9 }, 1e6, [], 1), {});
  t.strictSame(ceilingsOf({ ramBytes: 10, energyMj: 3, sensitivity: 0 }, 1e6, [], 1), {
    ramBytes: 10,
    energy: 0.003,
    sensitivity: 0,
  });
});

t.test('a relative latency is a share of int8 on the same target', async (t) => {
  t.equal(latencyCeiling({ latencyRatio: 0.5 }, 3e6), 1.5e6);
  t.equal(latencyCeiling({ latencyMs: 2 }, 3e6), 2e6);
  t.equal(latencyCeiling({}, 3e6), null);
});

t.test('plans take as much longer than predicted as the median one did, or as earlier ones did', async (t) => {
  const row = (predictedLatency: number, measuredLatency: number) => ({
    predictedLatency,
    measuredLatency,
    predictedBytes: 1,
    measuredBytes: 1,
  });
  t.equal(latencyRatio([], 1.2), 1.2);
  t.equal(latencyRatio([row(1, 2), row(1, 3), row(1, 30)], 1.2), 3);
  t.equal(latencyRatio([row(0, 2)], 1.2), 1.2, 'nothing predicted says nothing');
});
