import fc from 'fast-check';
import t from 'tap';
import { type Lifetime, liveBytes, peakRamBytes, planArena } from '../../../../agent/core/plan/memory.js';
import type { Assignment, Problem } from '../../../../agent/core/plan/problem.js';
import { everyAssignment, randomProblem } from './problems.js';

const seed = Number(process.env.QUANTD_SEED ?? Date.now() % 2 ** 31);
t.comment(`seed ${seed}: repeat with QUANTD_SEED=${seed}`);

/** Runs the operators one after another, converting on demand and freeing what nobody needs any more; returns the peak. */
function simulatedPeak(problem: Problem, assignment: Assignment): number {
  const choice = (operator: number) => problem.operators[operator]!.choices[assignment[operator]!]!;
  const end = problem.operators.length;
  const memory = new Map<string, number>();
  const pending = problem.edges.map((edge) => [
    ...[...new Set(edge.consumers)].sort((a, b) => a - b).map((at) => ({ at, format: choice(at).format })),
    ...(edge.sinkFormats ?? []).map((format) => ({ at: end, format })),
  ]);
  const written = problem.edges.map((edge) =>
    edge.producer === null ? edge.sourceFormat! : choice(edge.producer).format,
  );
  const place = (edge: number, format: string) =>
    memory.set(`${edge}/${format}`, problem.edges[edge]!.ramBytes[format]!);
  problem.edges.forEach((edge, index) => {
    if (edge.producer === null) place(index, written[index]!);
  });
  let peak = 0;
  for (let position = 0; position <= end; position++) {
    problem.edges.forEach((edge, index) => {
      if (edge.producer === position) place(index, written[index]!);
      for (const reader of pending[index]!) if (reader.at === position) place(index, reader.format);
    });
    const scratch = position < end ? (choice(position).scratchBytes ?? 0) : 0;
    peak = Math.max(peak, scratch + [...memory.values()].reduce((sum, bytes) => sum + bytes, 0));
    problem.edges.forEach((_, index) => {
      pending[index] = pending[index]!.filter((reader) => reader.at > position);
      const needed = new Set(
        pending[index]!.map(({ format }) => (memory.has(`${index}/${format}`) ? format : written[index]!)),
      );
      for (const format of Object.keys(problem.edges[index]!.ramBytes))
        if (!needed.has(format)) memory.delete(`${index}/${format}`);
    });
  }
  return peak + problem.fixed.ramBytes;
}

t.test('the peak is that of running the operators one after another', async () => {
  fc.assert(
    fc.property(fc.nat(), (number) => {
      const problem = randomProblem(number, { operators: 6, choices: 3, decades: 1, ties: false, forbidden: 0 });
      return everyAssignment(problem).every(({ assignment, costs }, index) => {
        if (index % 17 > 0) return true;
        const peak = simulatedPeak(problem, assignment);
        return peakRamBytes(problem, assignment) === peak && costs.ramBytes === peak;
      });
    }),
    { seed, numRuns: 60 },
  );
});

const lifetimes = (most: number) =>
  fc.array(
    fc
      .record({
        bytes: fc.integer({ min: 0, max: 40 }),
        first: fc.integer({ min: 0, max: 6 }),
        length: fc.integer({ min: 0, max: 4 }),
      })
      .map(({ bytes, first, length }): Lifetime => ({ name: 'tensor', bytes, first, last: first + length })),
    { maxLength: most },
  );

function overlaps(a: Lifetime, b: Lifetime): boolean {
  return a.first <= b.last && b.first <= a.last;
}

/** Least arena: in some order, every tensor lies at the lowest offset that is free, which the optimum can be pushed down to. */
function leastArena(tensors: readonly Lifetime[]): number {
  const visit = (placed: { tensor: Lifetime; offset: number }[], rest: readonly Lifetime[], size: number): number => {
    if (rest.length === 0) return size;
    return rest.reduce((least, tensor, index) => {
      const neighbours = placed.filter((other) => overlaps(other.tensor, tensor));
      const candidates = [0, ...neighbours.map((other) => other.offset + other.tensor.bytes)].sort((a, b) => a - b);
      const offset = candidates.find((start) =>
        neighbours.every((other) => other.offset >= start + tensor.bytes || other.offset + other.tensor.bytes <= start),
      )!;
      const others = rest.filter((_, other) => other !== index);
      return Math.min(least, visit([...placed, { tensor, offset }], others, Math.max(size, offset + tensor.bytes)));
    }, Number.POSITIVE_INFINITY);
  };
  return visit([], tensors, 0);
}

t.test(
  'tensors that are alive at once never share bytes of the arena, which is as large as its highest tensor',
  async () => {
    fc.assert(
      fc.property(lifetimes(40), (tensors) => {
        const { offsets, arenaBytes } = planArena(tensors);
        const end = (index: number) => offsets[index]! + tensors[index]!.bytes;
        const isApart = (a: number, b: number) => end(a) <= offsets[b]! || end(b) <= offsets[a]!;
        const isSound = tensors.every((one, a) =>
          tensors.every((other, b) => a >= b || !overlaps(one, other) || isApart(a, b)),
        );
        return isSound && arenaBytes === tensors.reduce((most, _, index) => Math.max(most, end(index)), 0);
      }),
      { seed, numRuns: 500 },
    );
  },
);

t.test('the arena is no smaller than what is alive at once and close to the least possible', async (t) => {
  let [planned, least, exact] = [0, 0, 0];
  const runs = 200;
  fc.assert(
    fc.property(lifetimes(6), (tensors) => {
      const { arenaBytes } = planArena(tensors);
      const best = leastArena(tensors);
      planned += arenaBytes;
      least += best;
      if (arenaBytes === best) exact++;
      return best >= Math.max(0, ...liveBytes(tensors, 12)) && arenaBytes >= best && arenaBytes <= 2 * best;
    }),
    { seed, numRuns: runs },
  );
  t.comment(`${exact} of ${runs} arenas are minimal, all together ${(100 * (planned / least - 1)).toFixed(1)} % above`);
});

t.test('a chain needs two tensors at a time', (t) => {
  const chain = Array.from({ length: 10 }, (_, index) => ({
    name: `t${index}`,
    bytes: 100,
    first: index,
    last: index + 1,
  }));
  t.equal(planArena(chain).arenaBytes, 200);
  t.same(planArena([]), { offsets: [], arenaBytes: 0 });
  t.end();
});
