/** Seeded random numbers for tests: a run prints its seed, and QUANTD_SEED gives it back. */
import t from 'tap';

/** The seed of this run; prints it as a comment of the test file. */
export function announceSeed(): number {
  const seed = Number(process.env.QUANTD_SEED ?? Date.now() % 2 ** 31);
  t.comment(`seed ${seed}: repeat with QUANTD_SEED=${seed}`);
  return seed;
}

export { Random } from './random.js';
