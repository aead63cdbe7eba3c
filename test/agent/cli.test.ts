/** The command line as others rely on it: documents, exit codes, what goes to which stream. */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import { InferenceSession } from 'onnxruntime-node';
import t from 'tap';
import type { BenchReport } from '../../agent/jobs/bench.js';
import type { EvaluateReport } from '../../agent/jobs/evaluate.js';
import type { QuantizeDocument } from '../../agent/report.js';

const main = fileURLToPath(new URL('../../agent/main.js', import.meta.url));
const models = fileURLToPath(new URL('../../../scripts/firewatch/model', import.meta.url));
const model = join(models, 'firewatch-v1.onnx');
const folder = mkdtempSync(join(tmpdir(), 'quantd-cli-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

function quantd(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });
  return { status, stdout, stderr };
}

const job = ['quantize', model, '--data', join(models, 'samples'), '--state', join(folder, 'state')];

t.test('quantize prints one document with every agreed field, and writes what it describes', async (t) => {
  const { status, stdout } = quantd(...job, '--out', join(folder, 'out'), '--precisions', 'W8A8', '--json');
  t.equal(status, 0);
  const document = JSON.parse(stdout) as QuantizeDocument;
  t.strictSame(
    Object.keys(document.quality).filter((key) =>
      ['samples', 'floatTop1', 'int8Top1', 'top1', 'agreement', 'kl'].includes(key),
    ).length,
    6,
  );
  for (const key of ['unit', 'float', 'int8', 'predicted', 'measured']) t.ok(key in document.latency, `latency.${key}`);
  for (const key of ['profile', 'calibrate', 'assess', 'plan', 'apply', 'verify', 'total'])
    t.ok(key in document.seconds, `seconds.${key}`);
  for (const key of ['name', 'seconds', 'forwards']) t.ok(key in document.estimator, `estimator.${key}`);
  for (const key of ['averageWeightBits', 'averageActivationBits', 'bitOps', 'solver', 'digest'])
    t.ok(key in document.plan!, `plan.${key}`);
  for (const key of ['name', 'op', 'weightBits', 'inputBits', 'outputBits', 'kernel', 'latency', 'sensitivity']) {
    t.ok(key in document.plan!.operators[0]!, `operators.${key}`);
  }
  t.ok(document.quality.top1! > 0.93, 'uniform int8 keeps the accuracy');
  t.ok(document.quality.agreement! > 0.97);
  t.equal(document.target.counter, 'nanoseconds');
  t.strictSame(JSON.parse(readFileSync(join(folder, 'out', 'report.json'), 'utf8')), document);
  const session = await InferenceSession.create(document.artifact.path!);
  t.strictSame([...session.inputNames], ['input']);
  await session.release();
});

t.test('a second run measures no operator again', async (t) => {
  const rows = () => {
    const database = new Database(join(folder, 'state', 'quantd.db'), { readonly: true });
    const all = database
      .prepare('SELECT id, operator_key, precision, median, measured_at FROM latency ORDER BY id')
      .all();
    database.close();
    return all;
  };
  const before = rows();
  t.ok(before.length > 10);
  t.equal(quantd(...job, '--out', join(folder, 'again'), '--budget', 'size=150KB', '--json').status, 0);
  t.strictSame(rows(), before, 'ids, values and timestamps are unchanged');
});

t.test('evaluate judges by test samples, or by synthetic ones against the float model, and says which', async (t) => {
  const moved = join(folder, 'moved.onnx');
  cpSync(model, moved);
  cpSync(model.replace('.onnx', '.json'), moved.replace('.onnx', '.json'));
  const dataFree = ['quantize', moved, '--state', join(folder, 'state'), '--out', join(folder, 'free')];
  const quantized = quantd(...dataFree, '--precisions', 'W8A8', '--json');
  t.equal(quantized.status, 0);
  const { artifact, calibration, quality: before } = JSON.parse(quantized.stdout) as QuantizeDocument;
  t.equal(before.source, 'synthetic');
  t.equal(calibration.isDataFree, true);
  t.match(calibration.description, /^data-free, 64 synthetic samples/);
  const { stdout: told } = quantd(...dataFree, '--precisions', 'W8A8');
  t.match(told, /calibration: data-free, 64 synthetic samples/);
  t.match(told, /quality is that on synthetic samples/);
  const evaluate = (...args: string[]) => {
    const { status, stdout } = quantd('evaluate', artifact.path!, '--json', ...args);
    t.equal(status, 0);
    return (JSON.parse(stdout) as EvaluateReport).quality;
  };
  const { source, samples, floatTop1, top1, agreement, kl, sqnrDb } = evaluate();
  t.strictSame([source, samples, floatTop1, top1], ['synthetic', before.samples, null, null]);
  t.strictSame([agreement, kl, sqnrDb], [before.agreement, before.kl, before.sqnrDb], 'as when it was made');
  const labelled = evaluate('--data', join(models, 'samples'));
  t.equal(labelled.source, 'test');
  t.ok(labelled.floatTop1! > 0.9);
  t.ok(labelled.floatTop1! - labelled.top1! <= 0.02, `int8 within two points of float: ${labelled.top1}`);

  rmSync(moved);
  t.ok(evaluate('--data', join(models, 'samples')).top1! > 0.9, 'labels need no float model');
  const { status, stderr } = quantd('evaluate', artifact.path!);
  t.equal(status, 2);
  t.match(stderr, /usage\/invalid.*\n.*--data\n.*moved\.onnx/);
});

t.test(
  'for the engine: an image that evaluates and benches like any artifact, planned again without measuring',
  async (t) => {
    const native = [...job, '--target', 'native'];
    const { status, stdout } = quantd(...native, '--out', join(folder, 'native'), '--json');
    t.equal(status, 0);
    const document = JSON.parse(stdout) as QuantizeDocument;
    t.equal(document.target.kind, 'native');
    t.equal(document.artifact.format, 'quantd-image');
    t.match(document.artifact.path, /firewatch-v1-quantized\.qimg$/);
    t.ok(
      document.quality.agreement! > document.quality.int8Agreement! - 0.011,
      'speed alone is not bought with accuracy',
    );
    t.ok(document.latency.int8! > 0 && document.latency.float! > 0, 'of ONNX Runtime');
    t.ok(document.plan!.operators.every(({ kernel }) => kernel.startsWith('native ')));
    t.ok(document.size.artifactBytes! < document.size.floatBytes / 2);

    const tighter = quantd(...native, '--out', join(folder, 'native-4'), '--budget', 'size=40KB', '--json');
    t.equal(tighter.status, 0);
    const smaller = JSON.parse(tighter.stdout) as QuantizeDocument;
    t.equal(smaller.profiledOperators, 0);
    t.ok(smaller.size.artifactBytes! <= 40 * 1024);
    const bits = new Set(smaller.plan!.operators.flatMap(({ weightBits }) => weightBits ?? []));
    t.ok(
      [...bits].some((width) => width < 8),
      `weights of ${[...bits]} bits`,
    );

    const evaluated = quantd('evaluate', document.artifact.path!, '--data', join(models, 'samples'), '--json');
    t.equal(evaluated.status, 0);
    t.equal((JSON.parse(evaluated.stdout) as EvaluateReport).quality.top1, document.quality.top1);
    const benched = quantd('bench', model, document.artifact.path!, '--json');
    t.equal(benched.status, 0);
    t.strictSame(
      (JSON.parse(benched.stdout) as BenchReport).runs.map(({ name }) => name),
      ['ort-float', 'ort-int8', 'native-W8A8', 'firewatch-v1-quantized.qimg'],
    );
  },
);

t.test('a budget below the fastest plan ends with 3, the reason and a frontier, and writes nothing', async (t) => {
  const { status, stdout } = quantd(...job, '--out', join(folder, 'none'), '--budget', 'latency=1us', '--json');
  t.equal(status, 3);
  const document = JSON.parse(stdout) as QuantizeDocument;
  t.equal(document.feasible, false);
  t.ok(document.frontier.length > 0);
  t.equal(document.infeasible[0]?.metric, 'latency');
  t.equal(document.infeasible[0]?.ceiling, 0.001);
  t.notOk(existsSync(join(folder, 'none', 'report.json')));
});

t.test(
  'mistakes are told on stderr with code, subject and hint, without a stack, and nothing goes to stdout',
  async (t) => {
    const cases: [number, RegExp, string[]][] = [
      [2, /usage\/invalid/, [...job, '--out', folder, '--precisions', 'W3A3']],
      [2, /budget\/invalid/, [...job, '--out', folder, '--budget', 'speed=1']],
      [2, /usage\/invalid.*\n.*main\.js/, [...job, '--out', main]],
      [1, /store\/unwritable/, [...job, '--out', '/sys/quantd']],
      [2, /estimator\/unknown/, [...job, '--out', folder, '--estimator', 'guess']],
      [1, /model\/malformed/, ['quantize', main, '--out', folder, '--state', join(folder, 'state'), '--json']],
      [
        1,
        /model\/unreadable/,
        ['quantize', join(folder, 'absent.onnx'), '--out', folder, '--state', join(folder, 'state')],
      ],
    ];
    for (const [expected, code, args] of cases) {
      const { status, stdout, stderr } = quantd(...args);
      t.equal(status, expected, String(code));
      t.match(stderr, code);
      t.match(stderr, /subject: .+\n {2}hint: .+/);
      t.notMatch(stderr, /\n\s+at /);
      t.notMatch(stderr, /^profile$/m, 'told before anything long begins');
      t.equal(stdout, '');
    }
  },
);
