import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import protobuf from 'protobufjs/light.js';
import t, { type Test } from 'tap';
import { readModel, writeModel } from '../../../agent/adapters/model-files.js';
import { encode } from '../../../agent/core/onnx/codec.js';
import { readFloats } from '../../../agent/core/onnx/tensor.js';
import { EdgeError, type ErrorCode } from '../../../configs/contracts/errors.js';
import { floats, info, model, node } from '../core/onnx/support.js';

const folder = mkdtempSync(join(tmpdir(), 'quantd-model-files-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

async function failsWith(t: Test, code: ErrorCode, work: Promise<unknown>, subject?: string): Promise<void> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof EdgeError)) throw new Error(`no EdgeError but ${error}`);
  t.equal(error.code, code);
  t.ok(error.hint.length > 0);
  if (subject !== undefined) t.equal(error.subject, subject);
}

const tiny = model({
  inputs: [info('x', [2])],
  nodes: [node('Add', ['x', 'w'], ['y'])],
  initializers: [floats('w', [2], [1, 2])],
  outputs: [info('y', [2])],
});

/** The tiny model with `w` in an external file. */
function withExternal(location: string, offset: string, length: string, dims = [2]): Uint8Array {
  const entry = (key: string, value: string): Uint8Array =>
    new protobuf.Writer()
      .uint32((13 << 3) | 2)
      .fork()
      .uint32(10)
      .string(key)
      .uint32(18)
      .string(value)
      .ldelim()
      .finish();
  const values = { location, offset, length };
  const external = Object.entries(values).map(([key, value]) => entry(key, value));
  const locationExternal = new protobuf.Writer()
    .uint32(14 << 3)
    .int32(1)
    .finish();
  const tensor = { ...floats('w', [0], []), dims, unknown: { $unknowns: [...external, locationExternal] } };
  return encode(model({ ...tiny.graph, initializers: [tensor], valueInfo: [] }));
}

t.test('a written model reads back the same, with the digest of its file', async (t) => {
  const path = join(folder, 'tiny.onnx');
  await writeModel(path, tiny);
  const { model: read, bytes, sha256 } = await readModel(path);
  t.same([...readFloats(read.graph.initializers.get('w')!)], [1, 2]);
  t.same(bytes, new Uint8Array(readFileSync(path)));
  t.equal(sha256, createHash('sha256').update(readFileSync(path)).digest('hex'));
  t.same(
    readdirSync(folder).filter((name) => name.endsWith('.tmp')),
    [],
  );
});

t.test('a model cannot be written where there is no folder, and a failure leaves no temporary file', async (t) => {
  await failsWith(t, 'store/unwritable', writeModel(join(folder, 'absent', 'tiny.onnx'), tiny));
  mkdirSync(join(folder, 'occupied.onnx'));
  await failsWith(t, 'store/unwritable', writeModel(join(folder, 'occupied.onnx'), tiny));
  t.same(
    readdirSync(folder).filter((name) => name.endsWith('.tmp')),
    [],
  );
});

t.test('files that are not models are refused', async (t) => {
  const at = (name: string): string => join(folder, name);
  await failsWith(t, 'model/unreadable', readModel(at('missing.onnx')), at('missing.onnx'));
  await failsWith(t, 'model/unreadable', readModel(folder));
  await failsWith(t, 'model/unreadable', readModel('/dev/zero'));
  execFileSync('mkfifo', [at('pipe.onnx')]);
  await failsWith(t, 'model/unreadable', readModel(at('pipe.onnx')));
  writeFileSync(at('empty.onnx'), '');
  await failsWith(t, 'model/malformed', readModel(at('empty.onnx')), at('empty.onnx'));
  writeFileSync(at('text.onnx'), 'This is no model.\n');
  await failsWith(t, 'model/malformed', readModel(at('text.onnx')));
  writeFileSync(at('large.onnx'), new Uint8Array(1000));
  await failsWith(t, 'model/too-large', readModel(at('large.onnx'), { maxBytes: 999 }));
});

t.test('external data beside the model is read, and is part of the digest', async (t) => {
  const path = join(folder, 'external.onnx');
  writeFileSync(path, withExternal('data/weights.bin', '4', '8'));
  mkdirSync(join(folder, 'data'));
  writeFileSync(join(folder, 'data', 'weights.bin'), Float32Array.of(9, 3, 4));
  const first = await readModel(path);
  t.same([...readFloats(first.model.graph.initializers.get('w')!)], [3, 4]);
  writeFileSync(join(folder, 'data', 'weights.bin'), Float32Array.of(9, 3, 5));
  t.not((await readModel(path)).sha256, first.sha256);
});

t.test('external data anywhere else, or shorter than declared, is refused', async (t) => {
  const outside = mkdtempSync(join(tmpdir(), 'quantd-outside-'));
  t.teardown(() => rmSync(outside, { recursive: true, force: true }));
  const home = join(folder, 'home');
  mkdirSync(home);
  writeFileSync(join(outside, 'secret.bin'), new Uint8Array(64));
  writeFileSync(join(folder, 'parent.bin'), new Uint8Array(64));
  writeFileSync(join(home, 'short.bin'), new Uint8Array(7));
  symlinkSync(join(outside, 'secret.bin'), join(home, 'link.bin'));
  symlinkSync(outside, join(home, 'linked-folder'));
  symlinkSync('loop.bin', join(home, 'loop.bin'));
  mkdirSync(join(home, 'folder'));
  execFileSync('mkfifo', [join(home, 'pipe')]);
  const path = join(home, 'hostile.onnx');
  const locations = [
    join(outside, 'secret.bin'),
    '/dev/zero',
    '../parent.bin',
    'folder/../../parent.bin',
    'link.bin',
    'linked-folder/secret.bin',
    'loop.bin',
    'folder',
    '.',
    'pipe',
    'missing.bin',
    'short.bin',
    'nul\0.bin',
  ];
  for (const location of locations) {
    writeFileSync(path, withExternal(location, '0', '8'));
    await failsWith(t, 'model/external-data', readModel(path), location);
  }
  writeFileSync(path, withExternal('short.bin', '999999999999999', '8'));
  await failsWith(t, 'model/external-data', readModel(path));
  for (const [offset, length] of [
    ['-1', '8'],
    ['0', '4'],
    ['0', '1e9'],
    ['nonsense', '8'],
  ] as const) {
    writeFileSync(path, withExternal('short.bin', offset, length));
    await failsWith(t, 'model/malformed', readModel(path), 'w');
  }
  writeFileSync(path, withExternal('short.bin', '0', '2147483644', [536870911]));
  await failsWith(t, 'model/external-data', readModel(path));
  writeFileSync(join(home, 'long.bin'), new Uint8Array(4096));
  writeFileSync(path, withExternal('long.bin', '0', '4096', [1024]));
  await failsWith(t, 'model/too-large', readModel(path, { maxBytes: 4096 }));
});
