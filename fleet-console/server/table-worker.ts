/**
 * Entry of the thread in which tables are read, shared and planned with, so that none of it holds up the console. One request in, one
 * answer out. Faults of WebAssembly are not survived: the thread dies, and another is started.
 */
import { parentPort } from 'node:worker_threads';
import { gunzipSync } from 'node:zlib';
import loadHighs from 'highs';
import { type HighsLibrary, solveWithHighs } from '../../agent/core/plan/highs.js';
import type { LinearSolver } from '../../agent/core/plan/linear-program.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { Budget, Counter, LatencyRow } from '../../configs/contracts/plan.js';
import { type DeviceTable, tableBytes } from '../../configs/contracts/tables.js';
import { atLatenciesOf, type Replay, replay } from './replay.js';
import { type Donation, type SharedTable, shareTables } from './shared-table.js';

/** What the thread is asked. Documents are compressed tables that were checked when they came. */
export type TableRequest =
  | { readonly kind: 'share'; readonly documents: readonly Uint8Array[] }
  /** `rows`: latencies to plan with instead of the document's own. */
  | {
      readonly kind: 'replay';
      readonly document: Uint8Array;
      readonly rows: readonly LatencyRow[] | null;
      readonly budget: Budget;
    };

/** What devices have shared, and the names of the operators' kinds by their keys. */
export interface Shared extends SharedTable {
  readonly counter: Counter;
  readonly types: Readonly<Record<string, string>>;
}

/** What it answers; null to a `replay` of a table without a problem, or one that could not be solved in time. */
export type TableAnswer = Shared | Replay | null;

const port = parentPort!;
/** As in the agent: the module loaded here has the loader as its default export. */
const load = loadHighs as unknown as () => Promise<HighsLibrary>;
let highs: Promise<HighsLibrary> | undefined;
const solver: LinearSolver = {
  async solve(program, options) {
    highs ??= load();
    return solveWithHighs(await highs, program, options, () => performance.now());
  },
};

function read(document: Uint8Array): DeviceTable {
  return JSON.parse(gunzipSync(document, { maxOutputLength: tableBytes }).toString('utf8')) as DeviceTable;
}

function share(documents: readonly Uint8Array[]): Shared {
  const donations = new Map<string, Donation>();
  const types: Record<string, string> = {};
  let counter: Counter = 'nanoseconds';
  for (const table of documents.map(read)) {
    counter = table.counter;
    // Newest first; a device's own tables of several models say the same of the same rows.
    const known = donations.get(table.device)?.rows ?? [];
    const keys = new Set(known.map(({ operatorKey, precision }) => `${operatorKey}@${precision}`));
    const fresh = table.rows.filter(({ operatorKey, precision }) => !keys.has(`${operatorKey}@${precision}`));
    donations.set(table.device, { device: table.device, rows: [...known, ...fresh] });
    for (const { key, type } of table.problem?.operators ?? []) types[key] = type;
  }
  return { ...shareTables([...donations.values()], counter), counter, types };
}

async function replayOf({ document, rows, budget }: Extract<TableRequest, { kind: 'replay' }>): Promise<Replay | null> {
  const { problem, ...table } = read(document);
  if (problem === null) return null;
  const planned = { ...table, problem: rows === null ? problem : atLatenciesOf(problem, rows) };
  try {
    return await replay(planned, budget, solver, new AbortController().signal);
  } catch (error) {
    // Not solved in time, or tied operators that share no precision: nothing can be said.
    if (error instanceof EdgeError) return null;
    throw error;
  }
}

port.on('message', async (request: TableRequest) => {
  port.postMessage(request.kind === 'share' ? share(request.documents) : await replayOf(request));
});
