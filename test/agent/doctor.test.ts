/** `quantd doctor`: the fields that others rely on, and each check with and without what it looks for. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Check, serialPorts } from '../../agent/commands/checks.js';
import { aedesBroker, freePort } from '../support/broker.js';
import { startConsole } from '../support/console.js';

const main = fileURLToPath(new URL('../../agent/main.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'qdoc-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

interface Report {
  readonly [field: string]: unknown;
  readonly checks: readonly Check[];
}

/** Runs the command; settings are variables without their prefix. */
function doctor(
  settings: Record<string, string>,
  ...args: string[]
): Promise<{ code: number; report: Report; text: string; of: (name: string) => Check }> {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('QUANTD__'));
  const given = Object.entries(settings).map(([name, value]) => [`QUANTD__${name}`, value]);
  const env = Object.fromEntries([
    ...own,
    ['QUANTD__STATE__FOLDER', join(folder, 'state')],
    ...given,
  ]) as NodeJS.ProcessEnv;
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [main, 'doctor', ...args], { env }, (error, stdout, stderr) => {
      if (stderr !== '') return reject(new Error(stderr));
      const report = (args.includes('--json') ? JSON.parse(stdout) : { checks: [] }) as Report;
      const of = (name: string) => report.checks.find((check) => check.name === name)!;
      resolve({ code: error === null ? 0 : Number(error.code), report, text: stdout, of });
    });
  });
}

/** Settings that lead nowhere, quickly. */
async function nowhere(): Promise<Record<string, string>> {
  const port = await freePort();
  return { CONSOLE__URL: `http://127.0.0.1:${port}`, MQTT__URL: `mqtt://127.0.0.1:${port}` };
}

t.test('the fields are those that others rely on; what is not there yet is a warning, and no failure', async (t) => {
  const { code, report, of } = await doctor(await nowhere(), '--json');
  t.equal(code, 0);
  for (const field of [
    'processor',
    'architecture',
    'features',
    'cores',
    'governor',
    'powerMode',
    'energy',
    'memory',
    'kernel',
    'glibc',
    'node',
    'runtime',
    'targets',
    'serialPorts',
    'state',
  ])
    t.ok(field in report, field);
  for (const name of ['settings', 'state', 'space', 'onnxruntime', 'sqlite', 'addon', 'serial', 'samples', 'clock'])
    t.equal(of(name)?.status, 'ok', `${name}: ${of(name)?.message}`);
  for (const name of ['console', 'broker', 'socket']) {
    t.equal(of(name)?.status, 'warning', name);
    t.ok(of(name).hint, `${name} says what to do`);
  }
  t.match(of('console').message, /ECONNREFUSED/);
  t.match(of('broker').message, /ECONNREFUSED/);
});

t.test('a console and a broker that answer are found, and so is what they refuse', async (t) => {
  const tokenFile = join(folder, 'token');
  writeFileSync(tokenFile, 'a token that is long enough\n');
  const console = await startConsole(join(folder, 'console'), { http: { tokenFile } });
  const addresses = { CONSOLE__URL: console.url, MQTT__URL: console.brokerUrl };
  const refused = await doctor(addresses, '--json');
  t.match(refused.of('console'), { status: 'failed', message: /asks for a token/ });
  t.equal(refused.of('broker').status, 'ok');
  t.match(refused.of('clock'), { status: 'ok', message: /console/ });
  t.equal(refused.code, 1);
  const taken = await doctor({ ...addresses, CONSOLE__TOKEN_FILE: tokenFile }, '--json');
  t.equal(taken.of('console').status, 'ok');
  t.equal(taken.code, 0);
  const absent = await doctor({ ...addresses, CONSOLE__TOKEN_FILE: join(folder, 'no-token') }, '--json');
  t.match(absent.of('console'), { status: 'failed', message: /console\.tokenFile cannot be read/ });
  await console.close();

  const broker = await aedesBroker((_name, password) => password === 'right');
  const passwordFile = join(folder, 'password');
  writeFileSync(passwordFile, 'wrong');
  const settings = {
    ...(await nowhere()),
    MQTT__URL: broker.url,
    MQTT__USERNAME: 'd',
    MQTT__PASSWORD_FILE: passwordFile,
  };
  const wrong = await doctor(settings, '--json');
  t.match(wrong.of('broker'), { status: 'failed', message: /refuses/ });
  t.notMatch(JSON.stringify(wrong.report), /wrong"/);
  writeFileSync(passwordFile, 'right');
  t.equal((await doctor(settings, '--json')).of('broker').status, 'ok');
  await broker.stop();
});

t.test('what accepts connections and says nothing holds up nothing', async (t) => {
  const silent = createTcpServer(() => {}).listen(0, '127.0.0.1');
  await new Promise((resolve) => silent.once('listening', resolve));
  const { port } = silent.address() as AddressInfo;
  const started = performance.now();
  const { of, code } = await doctor(
    { CONSOLE__URL: `http://127.0.0.1:${port}`, MQTT__URL: `mqtt://127.0.0.1:${port}` },
    '--json',
  );
  t.ok(performance.now() - started < 20_000);
  t.equal(code, 0);
  t.equal(of('console').status, 'warning');
  t.equal(of('broker').status, 'warning');
  t.equal(of('onnxruntime').status, 'ok');
  silent.close();
});

t.test("a clock that is not the console's, and an address that is no console, are told", async (t) => {
  const server = createServer((_request, response) => {
    response.writeHead(200, { date: new Date(Date.now() + 3_600_000).toUTCString() }).end('hello');
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { of } = await doctor({ ...(await nowhere()), CONSOLE__URL: url }, '--json');
  t.match(of('console'), { status: 'warning', message: /status 200/ });
  t.match(of('clock'), { status: 'warning', message: /(3599|3600|3601) s behind/ });
  server.close();
});

t.test('wrong settings are told, and everything else is looked at with the defaults', async (t) => {
  const config = join(folder, 'agent.toml');
  writeFileSync(config, '[console]\nurl = "http://name:secret@127.0.0.1:7400"\n');
  const { code, of, report } = await doctor({}, '--config', config, '--json');
  t.equal(code, 1);
  t.match(of('settings'), { status: 'failed', message: /console\.url/ });
  t.notMatch(JSON.stringify(report), /secret/);
  t.equal(of('state').status, 'ok');
  const typo = await doctor({ RETRY__FIRST_M: '1' }, '--json');
  t.match(typo.of('settings'), { status: 'failed', hint: /retry\.firstMs/ });
});

t.test('state that cannot be kept, samples that are none and a path too long fail, each with what to do', async (t) => {
  writeFileSync(join(folder, 'file'), '');
  const settings = {
    ...(await nowhere()),
    STATE__FOLDER: join(folder, 'file', 'state'),
    SAMPLES__FOLDER: folder,
    LOCAL__SOCKET: `/tmp/${'x'.repeat(120)}`,
    LIMITS__RESERVE_BYTES: String(2 ** 60),
  };
  const { code, of, text } = await doctor(settings, '--json');
  t.equal(code, 1);
  for (const name of ['state', 'space', 'samples', 'socket']) {
    t.equal(of(name)?.status, 'failed', `${name}: ${text}`);
    t.ok(of(name).hint);
  }
  const people = await doctor(settings);
  t.match(people.text, /state +failed/);
  t.match(people.text, /\n +Set state\.folder/);
});

t.test('a folder in which no file can be made is found by making one', async (t) => {
  const { of } = await doctor({ ...(await nowhere()), STATE__FOLDER: '/proc' }, '--json');
  t.match(of('state'), { status: 'failed', message: /cannot be written/ });
});

t.test('a daemon that runs is found by its socket', async (t) => {
  const path = join(folder, 's');
  const server = createServer((_request, response) => {
    response.writeHead(503).end('{"ready":false,"why":"no model is active on host"}');
  }).listen(path);
  await new Promise((resolve) => server.once('listening', resolve));
  const { of } = await doctor({ ...(await nowhere()), LOCAL__SOCKET: path }, '--json');
  t.match(of('socket'), { status: 'warning', message: /no model is active/ });
  t.match(of('gates'), { status: 'ok', message: /none is configured/ });
  server.close();
});

t.test('serial adapters come by their stable names, and those without one by their own', async (t) => {
  const root = t.testdir({ ttyACM0: '', ttyACM1: '', ttyUSB3: '', ttyS0: '', serial: { 'by-id': {} } });
  symlinkSync(join('..', '..', 'ttyACM1'), join(root, 'serial', 'by-id', 'usb-board'));
  t.same(await serialPorts(root), [
    join(root, 'serial', 'by-id', 'usb-board'),
    join(root, 'ttyACM0'),
    join(root, 'ttyUSB3'),
  ]);
  t.same(await serialPorts(join(root, 'absent')), []);
});
