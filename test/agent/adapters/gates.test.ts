/** Gates that read the machine: real commands, a made sysfs, a clock in the test's hand. */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { CommandGate } from '../../../agent/adapters/gate-command.js';
import { PowerGate, TemperatureGate } from '../../../agent/adapters/gate-sensors.js';
import { WindowGate } from '../../../agent/adapters/gate-window.js';
import type { GatePolicy } from '../../../agent/core/gates/decide.js';
import { parseWindow } from '../../../agent/core/gates/window.js';
import { until } from '../../support/broker.js';

const policy: GatePolicy = { kind: 'exec', holds: 'activation', unreadable: 'closed' };

function command(script: string, limitSeconds = 5, everySeconds = 0): CommandGate {
  return new CommandGate(policy, { command: [process.execPath, '-e', script], limitSeconds, everySeconds });
}

function write(root: string, files: Readonly<Record<string, string | number>>): string {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), `${text}\n`);
  }
  return root;
}

t.test(
  'a command opens its gate with status 0 and closes it with any other; its first line is the reason',
  async (t) => {
    const cases: [string, boolean | null, string | RegExp][] = [
      ['console.log("all is well\\nmore")', true, 'all is well'],
      ['', true, 'the command says so'],
      ['console.log("surveying"); process.exitCode = 75', false, 'surveying'],
      ['process.exit(75)', false, 'the command ended with status 75'],
      ['process.exit(1)', false, 'the command ended with status 1'],
      ['process.kill(process.pid, "SIGTERM"); setTimeout(() => {}, 5000)', null, /was ended by SIGTERM/],
      ['console.error("to stderr"); process.stdout.write("x".repeat(1e6), () => process.exit(75))', false, /^x{199}…$/],
    ];
    for (const [script, isOpen, reason] of cases)
      t.match(await command(script).read(false), { isOpen, reason }, script);
    const missing = new CommandGate(policy, { command: ['/no/such/program'], limitSeconds: 5, everySeconds: 0 });
    t.match(await missing.read(false), { isOpen: null, reason: /cannot be run.*ENOENT/ });
  },
);

t.test('no shell reads the arguments of a command', async (t) => {
  const text = '$(touch never) ; `id` "quoted"';
  const settings = { command: ['echo', text], limitSeconds: 5, everySeconds: 0 };
  t.match(await new CommandGate(policy, settings).read(false), { isOpen: true, reason: text });
});

t.test('a command that takes too long is killed, with all that it has started', async (t) => {
  const file = join(t.testdir(), 'child');
  const child = `require('child_process').spawn(process.execPath, ['-e', ${JSON.stringify(
    `require('fs').writeFileSync(${JSON.stringify(file)}, String(process.pid)); setTimeout(() => {}, 60000)`,
  )}], { stdio: 'inherit' }); setTimeout(() => {}, 60000)`;
  const gate = command(child, 1.5);
  const started = performance.now();
  t.match(await gate.read(false), { isOpen: null, reason: /did not answer within 1\.5 s/ });
  t.ok(performance.now() - started < 5000);
  t.ok(existsSync(file), 'it had a child');
  const pid = Number(readFileSync(file, 'utf8'));
  await until(() => !isAlive(pid), 'the child is gone');
});

function isAlive(pid: number): boolean {
  try {
    // A killed process stays listed until its parent has heard of it.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

t.test('a command never runs twice at once, and its answer holds for a while', async (t) => {
  const log = join(t.testdir(), 'log');
  const script = `const fs = require('fs'); fs.appendFileSync(${JSON.stringify(log)}, '+');
    setTimeout(() => fs.appendFileSync(${JSON.stringify(log)}, '-'), 150)`;
  const runs = () => (existsSync(log) ? readFileSync(log, 'utf8') : '');
  const held = command(script, 5, 60);
  await Promise.all(Array.from({ length: 5 }, () => held.read(false)));
  await held.read(false);
  t.equal(runs(), '+-', 'one run for all');
  await Promise.all([held.read(true), held.read(true), held.read(false)]);
  t.match(runs(), /^(\+-){2,3}$/, 'asked afresh it runs again, one after the other');
  const before = runs();
  await Promise.all([held.read(true), sleep(50).then(() => held.read(true))]);
  t.match(runs().slice(before.length), /^(\+-){2}$/, 'a run that has begun already is not fresh');
  const closing = command('setTimeout(() => {}, 60000)', 60);
  const reading = closing.read(false);
  await sleep(100);
  await closing.close();
  t.match(await reading, { isOpen: null });
});

t.test('while a slow command is asked again, its last answer stands', async (t) => {
  const file = join(t.testdir(), 'n');
  const script = `const fs = require('fs'); const f = ${JSON.stringify(file)};
    const n = fs.existsSync(f) ? Number(fs.readFileSync(f, 'utf8')) + 1 : 1; fs.writeFileSync(f, String(n));
    setTimeout(() => console.log('run ' + n), n === 1 ? 0 : 700)`;
  const gate = command(script, 5, 0);
  t.match(await gate.read(false), { reason: 'run 1' });
  await sleep(5);
  const started = performance.now();
  t.match(await gate.read(false), { reason: 'run 1' });
  t.ok(performance.now() - started < 300);
  await until(async () => (await gate.read(false)).reason !== 'run 1', 'the next answer is there');
  await gate.close();
});

t.test('batteries and mains as sysfs has them', async (t) => {
  const limits = { leastPercent: 50, mains: 'enough' } as const;
  const gate = (name: string, files: Record<string, string | number>) => {
    const root = write(join(t.testdir(), name), { 'class/none': '', ...files });
    return new PowerGate({ ...policy, kind: 'power' }, limits, root).read();
  };
  const supply = (name: string, files: Record<string, string | number>) =>
    Object.fromEntries(Object.entries(files).map(([key, value]) => [`class/power_supply/${name}/${key}`, value]));
  const battery = (name: string, capacity: number, more = {}) => supply(name, { type: 'Battery', capacity, ...more });
  t.match(await gate('a', {}), { isOpen: null });
  t.match(await gate('b', battery('BAT0', 80)), { isOpen: true, reason: 'battery at 80 %' });
  t.match(await gate('c', { ...battery('BAT0', 80), ...battery('BAT1', 20) }), {
    isOpen: false,
    reason: /20 %, less than 50 %/,
  });
  t.match(await gate('d', { ...battery('BAT0', 20), ...supply('AC', { type: 'Mains', online: 1 }) }), { isOpen: true });
  t.match(await gate('e', { ...battery('BAT0', 20), ...supply('AC', { type: 'Mains', online: 0 }) }), {
    isOpen: false,
  });
  t.match(await gate('f', battery('mouse', 5, { scope: 'Device' })), { isOpen: null }, 'a mouse does not feed it');
  t.match(await gate('g', { ...battery('BAT0', 80), ...battery('BAT1', 5, { present: 0 }) }), { isOpen: true });
  t.match(await gate('h', { ...battery('BAT0', 80), ...supply('BAT1', { type: 'Battery' }) }), { isOpen: null });
});

t.test('the hottest of the zones that are named, or of all', async (t) => {
  const zone = (index: number, type: string, millidegrees: number | string) => ({
    [`class/thermal/thermal_zone${index}/type`]: type,
    [`class/thermal/thermal_zone${index}/temp`]: millidegrees,
  });
  const root = write(t.testdir(), {
    ...zone(0, 'CPU-therm', 65_000),
    ...zone(1, 'PMIC-Die', 100_000),
    ...zone(2, 'off', ''),
  });
  const gate = (zones: string[]) =>
    new TemperatureGate({ ...policy, kind: 'temperature' }, { mostCelsius: 70, hysteresisCelsius: 5 }, zones, root);
  t.match(await gate([]).read(), { isOpen: false, detail: '100.0 °C' });
  const named = gate(['CPU-therm']);
  t.match(await named.read(), { isOpen: true, detail: '65.0 °C' });
  write(root, zone(0, 'CPU-therm', 71_000));
  t.match(await named.read(), { isOpen: false });
  write(root, zone(0, 'CPU-therm', ''));
  t.match(await named.read(), { isOpen: null }, 'for a moment it says nothing');
  write(root, zone(0, 'CPU-therm', 68_000));
  t.match(await named.read(), { isOpen: false }, 'it is still too hot: it has to cool down to 65');
  write(root, zone(0, 'CPU-therm', 64_000));
  t.match(await named.read(), { isOpen: true });
  t.match(await gate(['off']).read(), { isOpen: null });
  t.match(await gate(['CPU-therm', 'no-such-zone']).read(), { isOpen: null });
  rmSync(join(root, 'class'), { recursive: true });
  t.match(await gate([]).read(), { isOpen: null });
});

t.test('a window goes by the clock only when that can be right', async (t) => {
  const window = parseWindow({ days: ['mon'], from: '09:00', to: '10:00', zone: 'UTC' });
  const clock = { nowMs: Date.UTC(2026, 10, 30, 9, 30), isRight: true as boolean | null };
  const wall = { now: () => clock.nowMs, isSynchronised: async () => clock.isRight };
  const gate = new WindowGate({ ...policy, kind: 'window' }, window, false, wall);
  t.match(await gate.read(), { isOpen: true, until: null });
  clock.nowMs = Date.UTC(2026, 10, 30, 10);
  t.match(await gate.read(), { isOpen: false, until: '2026-12-07T09:00:00.000Z' });
  clock.nowMs = Date.UTC(2026, 11, 7, 8, 59);
  t.match(await gate.read(), { isOpen: false, until: '2026-12-07T09:00:00.000Z' });
  clock.nowMs = Date.UTC(2026, 10, 24);
  t.match(await gate.read(), { isOpen: false }, 'the clock was set back');
  clock.nowMs = Date.UTC(1970, 0, 5, 9, 30);
  t.match(await gate.read(), { isOpen: null, reason: 'the clock cannot be right' });
  const unsynchronised = { now: () => Date.UTC(2026, 10, 30, 9, 30), isSynchronised: async () => false };
  const [careful, trusting] = [false, true].map((trusts) => new WindowGate(policy, window, trusts, unsynchronised));
  t.match(await careful!.read(), { isOpen: null, reason: 'the clock is not synchronised yet' });
  t.match(await trusting!.read(), { isOpen: true });
  const silent = { now: () => Date.UTC(2026, 10, 30, 9, 30), isSynchronised: async () => null };
  t.match(await new WindowGate(policy, window, false, silent).read(), { isOpen: true }, 'where nobody knows');
});

t.test('a window asks again until the clock is synchronised, and not every time', async (t) => {
  const window = parseWindow({ days: ['mon'], from: '09:00', to: '10:00', zone: 'UTC' });
  let [nowMs, isRight, asked] = [Date.UTC(2026, 10, 30, 9, 0), false, 0];
  const wall = {
    now: () => nowMs,
    isSynchronised: async () => {
      asked++;
      return isRight;
    },
  };
  const gate = new WindowGate(policy, window, false, wall);
  for (let second = 0; second < 29; second++, nowMs += 1000) t.match(await gate.read(), { isOpen: null });
  t.equal(asked, 1);
  isRight = true;
  nowMs += 2000;
  t.match(await gate.read(), { isOpen: true });
  isRight = false;
  nowMs += 60_000;
  t.match(await gate.read(), { isOpen: true }, 'once right, it stays near enough');
  t.equal(asked, 2);
});

t.test('a script that cannot be executed makes its gate unreadable', async (t) => {
  const file = join(t.testdir(), 'hook');
  writeFileSync(file, '#!/no/such/interpreter\n');
  chmodSync(file, 0o755);
  const gate = new CommandGate(policy, { command: [file], limitSeconds: 5, everySeconds: 0 });
  t.match(await gate.read(false), { isOpen: null, reason: /cannot be run/ });
});
