import t from 'tap';
import {
  entropyLoss,
  entropyOf,
  fits,
  paretoSet,
  regrid,
  scoresOf,
  searchExact,
  searchGreedy,
  sweepLambda,
  type ValueProblem,
} from '../../../../agent/core/plan/value-search.js';
import { roundHalfEven, unsignedAffine } from '../../../../agent/core/quant/affine.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();

/** Maps that are alive for some steps each, two or three at a time; memory grows with bits, but for outputs that are written over inputs. */
function drawProblem(random: Random): ValueProblem {
  const count = 1 + random.below(7);
  const maps = Array.from({ length: count }, (_, index) => {
    const weight = random.next();
    const losses = new Map([8, 4, 2].map((bits) => [bits, (8 - bits) * (0.5 + random.next())]));
    return {
      name: `map ${index}`,
      candidates: random.next() < 0.15 ? [8] : random.next() < 0.2 ? [8, 4] : [8, 4, 2],
      computation: (bits: number) => weight * bits,
      loss: (bits: number) => losses.get(bits)!,
    };
  });
  const sizes = maps.map(() => 1 + random.below(40));
  const lasts = maps.map((_, index) => Math.min(count - 1, index + random.below(3)));
  const steps = maps.flatMap((_, position) => {
    const held = maps.flatMap((_, map) => (map <= position && lasts[map]! >= position - 1 ? [map] : []));
    const isInPlace = random.next() < 0.3;
    const bytes = (bits: readonly number[]) => {
      const each = held.map((map, index) => sizes[map]! * bits[index]!);
      const output = each[held.indexOf(position)] ?? 0;
      const isRoom = isInPlace && each.some((size, index) => held[index] !== position && size >= output);
      return each.reduce((a, b) => a + b, 0) - (isRoom ? output : 0);
    };
    return held.length === 0 || random.next() < 0.1 ? [] : [{ maps: held, bytes }];
  });
  const all8 = steps.map(({ maps: held, bytes }) => bytes(held.map(() => 8)));
  return { maps, steps, ceilingBytes: Math.max(0, ...all8) * (0.15 + random.next()) };
}

function allChoices({ maps }: ValueProblem): number[][] {
  return maps.reduce<number[][]>(
    (choices, { candidates }) => choices.flatMap((choice) => candidates.map((bits) => [...choice, bits])),
    [[]],
  );
}

function scoreOf({ maps }: ValueProblem, lambda: number, bits: readonly number[]): number {
  const scores = scoresOf(maps, lambda);
  return bits.reduce((sum, width, map) => sum + scores[map]![maps[map]!.candidates.indexOf(width)]!, 0);
}

t.test('the exact search finds the best choice that fits, as enumerating all does', (t) => {
  const random = new Random(seed);
  const seen = { infeasible: 0, bound: 0, free: 0, greedyFails: 0, greedyWorse: 0 };
  for (let n = 0; n < 300; n++) {
    const problem = drawProblem(random);
    const lambda = random.next();
    const fitting = allChoices(problem).filter((bits) => fits(problem, bits));
    const exact = searchExact(problem, lambda);
    const greedy = searchGreedy(problem, lambda);
    if (fitting.length === 0) {
      t.equal(exact, null);
      t.equal(greedy, null);
      seen.infeasible++;
      continue;
    }
    const best = fitting.reduce(
      (most, bits) => Math.max(most, scoreOf(problem, lambda, bits)),
      Number.NEGATIVE_INFINITY,
    );
    if (exact === null || !fits(problem, exact)) t.fail(`case ${n} of seed ${seed} finds nothing that fits`);
    else t.ok(Math.abs(scoreOf(problem, lambda, exact) - best) < 1e-9, `case ${n}`);
    if (fitting.length < allChoices(problem).length) seen.bound++;
    else seen.free++;
    if (greedy === null) seen.greedyFails++;
    else {
      t.ok(fits(problem, greedy));
      if (scoreOf(problem, lambda, greedy) < best - 1e-9) seen.greedyWorse++;
    }
  }
  t.comment(JSON.stringify(seen));
  for (const kind of ['infeasible', 'bound', 'free', 'greedyWorse'] as const) t.ok(seen[kind] > 5, kind);
  t.end();
});

t.test('where memory is no matter, both searches take the best of every map', (t) => {
  const random = new Random(seed);
  for (let n = 0; n < 50; n++) {
    const problem = { ...drawProblem(random), ceilingBytes: Number.POSITIVE_INFINITY };
    const lambda = random.next();
    t.same(searchGreedy(problem, lambda), searchExact(problem, lambda));
    t.same(
      searchExact(problem, 1),
      problem.maps.map(({ candidates }) => candidates[0]),
    );
    t.same(
      searchExact(problem, 0),
      problem.maps.map(({ candidates }) => candidates.at(-1)),
    );
    for (const scores of scoresOf(problem.maps, lambda)) t.equal(scores[0], 0);
  }
  t.throws(() => scoresOf([], 1.1), RangeError);
  t.end();
});

t.test('a sweep lists every choice once, from the least computation, with the lambdas that led to it', (t) => {
  const random = new Random(seed);
  const lambdas = Array.from({ length: 21 }, (_, index) => index / 20);
  for (let n = 0; n < 30; n++) {
    const problem = drawProblem(random);
    const choices = sweepLambda(problem, lambdas, searchExact);
    t.same(
      choices.flatMap((choice) => choice.lambdas).sort((a, b) => a - b),
      choices.length === 0 ? [] : lambdas,
    );
    t.equal(new Set(choices.map(({ bits }) => bits.join())).size, choices.length);
    for (const { lambdas: led, bits, computation, loss } of choices) {
      for (const lambda of led) t.same(searchExact(problem, lambda), bits);
      t.ok(Math.abs(computation - problem.maps.reduce((sum, map, i) => sum + map.computation(bits[i]!), 0)) < 1e-9);
      t.ok(Math.abs(loss - problem.maps.reduce((sum, map, i) => sum + map.loss(bits[i]!), 0)) < 1e-9);
    }
    t.same(
      choices,
      [...choices].sort((a, b) => a.computation - b.computation),
    );
  }
  t.end();
});

t.test('the Pareto set has what nothing else beats', (t) => {
  const points = [
    [1, 5],
    [2, 3],
    [2, 4],
    [3, 3],
    [4, 1],
    [1, 5],
  ] as const;
  t.same(
    paretoSet(
      points,
      ([x]) => x,
      ([, y]) => y,
    ),
    [
      [1, 5],
      [2, 3],
      [4, 1],
      [1, 5],
    ],
  );
  t.end();
});

t.test('entropies are those of known distributions', (t) => {
  const grid = (bits: number) => unsignedAffine({ minimum: 0, maximum: 1 }, bits);
  const uniform = new Float64Array(256).fill(3);
  t.ok(Math.abs(entropyOf(uniform) - 8) < 1e-12);
  t.equal(entropyOf([7]), 0);
  t.equal(entropyOf([]), 0);
  t.equal(entropyOf([1, 1, 0, 2]), 1.5);
  // The outer codes get half of what the others get.
  const entropyOfUniform = (codes: number) => {
    const inner = 1 / (codes - 1);
    return -(codes - 2) * inner * Math.log2(inner) - inner * Math.log2(inner / 2);
  };
  for (const bits of [4, 2]) {
    const coarse = entropyOf(regrid(uniform, grid(8), grid(bits)));
    t.ok(Math.abs(coarse - entropyOfUniform(2 ** bits)) < 0.01, `${bits} bits: ${coarse}`);
    t.ok(Math.abs(entropyLoss(uniform, grid(8), grid(bits)) - (8 - coarse)) < 1e-12);
  }
  // Laplace between its extremes of 65536 values: 5.90, 1.95 and 1.00 bits.
  const laplace = new Float64Array(256);
  const extreme = Math.log(65536);
  const symmetric = (bits: number) => unsignedAffine({ minimum: -extreme, maximum: extreme }, bits);
  for (let code = 0; code < 256; code++)
    laplace[code] = Math.exp(-Math.abs((code - symmetric(8).zeroPoint) * symmetric(8).scale));
  t.ok(Math.abs(entropyOf(laplace) - 5.9) < 0.1);
  t.ok(Math.abs(entropyOf(regrid(laplace, symmetric(8), symmetric(4))) - 1.95) < 0.1);
  t.end();
});

t.test('the histogram on a coarser grid is that of the values, where these are on the finer one', (t) => {
  const random = new Random(seed);
  for (let n = 0; n < 60; n++) {
    const range = () => ({ minimum: -2 * random.next(), maximum: 2 * random.next() });
    const from = unsignedAffine(range(), 8);
    const to = unsignedAffine(range(), random.pick([2, 4, 6, 8]));
    const codes = Array.from({ length: 500 }, () => random.below(256));
    const histogram = new Float64Array(256);
    const expected = new Float64Array(to.codeMaximum + 1);
    for (const code of codes) {
      histogram[code]!++;
      const value = (code - from.zeroPoint) * from.scale;
      expected[Math.max(0, Math.min(to.codeMaximum, roundHalfEven(value / to.scale) + to.zeroPoint))]!++;
    }
    t.same(regrid(histogram, from, to), expected);
  }
  t.end();
});
