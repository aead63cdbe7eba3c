/** The ports: what the agent's steps need from the world. Types only; adapters implement them, the two `main.ts` wire them. */
import type { LinearProgram, LinearSolution, SolveOptions } from './core/plan/linear-program.js';

/** Solves mixed-integer linear programmes off the main thread. Fails with `solver/failed`, or `job/aborted` on the signal. */
export interface Solver {
  solve(program: LinearProgram, options: SolveOptions, signal: AbortSignal): Promise<LinearSolution>;
  close(): Promise<void>;
}
