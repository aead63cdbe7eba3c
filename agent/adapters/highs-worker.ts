/**
 * Entry of the worker thread in which HiGHS (WebAssembly, synchronous) runs. One request in, one answer out. A fault is not caught:
 * what is left of WebAssembly's memory cannot be trusted, so the thread dies and the adapter starts another.
 */
import { parentPort } from 'node:worker_threads';
import loadHighs from 'highs';
import { type HighsLibrary, solveWithHighs } from '../core/plan/highs.js';
import type { LinearProgram, SolveOptions } from '../core/plan/linear-program.js';

/** What the thread is sent: one programme to solve. It answers with one `LinearSolution`, or dies. */
export interface HighsRequest {
  program: LinearProgram;
  options: SolveOptions;
}

const port = parentPort!;
/** The package's types describe its CommonJS build; the module loaded here has the loader as its default export. */
const highsReady = (loadHighs as unknown as () => Promise<HighsLibrary>)();

port.on('message', async ({ program, options }: HighsRequest) => {
  port.postMessage(solveWithHighs(await highsReady, program, options, () => performance.now()));
});
