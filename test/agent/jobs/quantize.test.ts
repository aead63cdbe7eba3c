/** A new budget for a model that was quantized here before: from what is stored, without the float model. */
import { createHash } from 'node:crypto';
import { copyFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import t from 'tap';
import { HighsSolver } from '../../../agent/adapters/highs-solver.js';
import { HostRuntime } from '../../../agent/adapters/host-runtime.js';
import { nativeRounder } from '../../../agent/adapters/native-rounder.js';
import { NativeTarget } from '../../../agent/adapters/native-target.js';
import { SqliteStore } from '../../../agent/adapters/sqlite-store.js';
import { quantizeJob } from '../../../agent/jobs/quantize.js';
import type { Budget } from '../../../configs/contracts/plan.js';
import { clock, never, quiet } from '../../support/steps.js';

const models = fileURLToPath(new URL('../../../../scripts/firewatch/model', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'quantd-jobs-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const model = join(folder, 'model.onnx');
copyFileSync(join(models, 'firewatch-v1.onnx'), model);
copyFileSync(join(models, 'firewatch-v1.json'), join(folder, 'model.json'));
const modelSha256 = createHash('sha256').update(readFileSync(model)).digest('hex');
const restore = () => copyFileSync(join(models, 'firewatch-v1.onnx'), model);

/** One run with its own connection to a state folder's store. */
async function quantize(state: string, budget: Budget) {
  const store = new SqliteStore(join(folder, `${state}.db`));
  const solver = new HighsSolver();
  const target = new NativeTarget({ threads: 1 });
  const ports = { runtime: new HostRuntime(), target, solver, rounder: nativeRounder, store, clock };
  const options = {
    model,
    modelSha256,
    data: join(models, 'samples'),
    target: 'native',
    budget,
    estimator: 'logits',
    threads: 1,
    variant: 'ort' as const,
    range: 'auto' as const,
    state: folder,
    out: join(folder, 'out'),
  };
  try {
    return await quantizeJob(options, ports, never, quiet);
  } finally {
    await solver.close();
    store.close();
  }
}

/** Deletes stored results of a kind. */
function forget(state: string, kind: string): void {
  const database = new Database(join(folder, `${state}.db`));
  t.ok(database.prepare('DELETE FROM step WHERE kind = ?').run(kind).changes > 0, `there was a ${kind}`);
  database.close();
}

const first = await quantize('first', {});
const full = first.size.artifactBytes!;
cpSync(join(folder, 'first.db'), join(folder, 'second.db'));
const budget: Budget = { sizeBytes: Math.round(full * 0.8) };

t.test('the float model may be gone, and the artifact is the one that it would have given', async (t) => {
  writeFileSync(model, 'not a model');
  const replanned = await quantize('first', budget);
  restore();
  forget('second', 'master');
  const fromFloat = await quantize('second', budget);
  t.equal(replanned.feasible, true);
  t.ok(replanned.size.artifactBytes! <= budget.sizeBytes!);
  t.equal(replanned.profiledOperators, 0);
  t.equal(replanned.artifact.sha256, fromFloat.artifact.sha256);
  t.same(replanned.quality, fromFloat.quality);
  t.same(replanned.model, fromFloat.model);
});

t.test('what is missing in the store is made from the float model, or is an error without it', async (t) => {
  forget('first', 'assess');
  writeFileSync(model, 'not a model');
  await t.rejects(quantize('first', budget), { code: 'model/malformed' });
  restore();
  t.equal((await quantize('first', budget)).feasible, true);
});
