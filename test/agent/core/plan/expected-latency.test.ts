/** Predictions corrected by what was measured, and frontiers that stay frontiers. */
import t from 'tap';
import { expectedLatency, noExperience, paretoPoints } from '../../../../agent/core/plan/expected-latency.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const unknown = { int8Ratio: null, int8Latency: null, plans: [] };

t.test('with nothing measured a prediction stands, or is scaled by the ratio of earlier runs', async (t) => {
  t.equal(expectedLatency(3, noExperience), 3);
  t.equal(expectedLatency(3, { ratio: 2, points: [], ...unknown }), 6);
});

t.test('what was measured is expected again, whatever the ratio', async (t) => {
  const points = [
    { predicted: 4, measured: 3 },
    { predicted: 1, measured: 2 },
    { predicted: 2, measured: 2 },
  ];
  for (const { predicted, measured } of points)
    t.equal(expectedLatency(predicted, { ratio: 9, points, ...unknown }), measured);
  t.equal(expectedLatency(3, { ratio: 9, points, ...unknown }), 3 * ((1 + 0.75) / 2), 'between two, half way');
  t.equal(expectedLatency(0.5, { ratio: 9, points, ...unknown }), 1, 'below the lowest, its ratio');
  t.equal(expectedLatency(8, { ratio: 9, points, ...unknown }), 6, 'above the highest, its ratio');
});

t.test('a plan that measures slower than a more accurate one leaves the frontier', async (t) => {
  // As on a small model, where the mix that should have been fastest is beaten by all float.
  const experience = {
    ratio: 1,
    ...unknown,
    points: [
      { predicted: 39, measured: 52 },
      { predicted: 49, measured: 48 },
    ],
  };
  const points = [39, 42, 49].map((predicted, index) => ({
    latency: expectedLatency(predicted, experience),
    sensitivity: 2 - index,
  }));
  t.same(paretoPoints(points), [{ latency: 48, sensitivity: 0 }]);
});

t.test('Pareto points are those that no other point beats', async (t) => {
  const random = new Random(seed);
  for (let round = 0; round < 200; round++) {
    const points = Array.from({ length: random.below(12) }, () => ({
      latency: random.below(5),
      sensitivity: random.below(5),
    }));
    const beats = (a: (typeof points)[0], b: (typeof points)[0]) =>
      a.latency <= b.latency &&
      a.sensitivity <= b.sensitivity &&
      (a.latency < b.latency || a.sensitivity < b.sensitivity);
    const unbeaten = points.filter((point) => !points.some((other) => beats(other, point)));
    const distinct = new Set(unbeaten.map((point) => JSON.stringify(point)));
    t.same(new Set(paretoPoints(points).map((point) => JSON.stringify(point))), distinct);
  }
});
