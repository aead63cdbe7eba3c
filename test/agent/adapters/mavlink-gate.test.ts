/** An autopilot over real sockets and a real terminal: what it says opens the gate, silence and strangers do not. */
import { execFile, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { MavlinkGate } from '../../../agent/adapters/mavlink-gate.js';
import type { FlightSettings } from '../../../agent/core/gates/flight.js';
import { parseMavlinkSource } from '../../../agent/core/gates/source.js';
import { until } from '../../support/broker.js';
import { Autopilot, frame2, freeUdpPort, heartbeat, landedState } from '../../support/mavlink.js';

const policy = { kind: 'mavlink', holds: 'activation', unreadable: 'closed' } as const;
const settings: FlightSettings = { systemId: 1, componentId: 1, silentSeconds: 0.7, landed: 'required' };
const onUdp = (port: number) => ({ kind: 'udp', host: '127.0.0.1', port }) as const;
const says = (gate: MavlinkGate, isOpen: boolean | null) => async () => (await gate.read()).isOpen === isOpen;

t.test('over UDP: in flight it is closed, on the ground open, in silence closed again', async (t) => {
  const port = await freeUdpPort();
  const gate = new MavlinkGate(policy, settings, onUdp(port));
  t.match(await gate.read(), { isOpen: null });
  const autopilot = new Autopilot(port, 50);
  await until(says(gate, false), 'it is armed');
  t.match(await gate.read(), { reason: 'the vehicle is armed' });
  autopilot.isArmed = false;
  await until(async () => /in the air/.test((await gate.read()).reason), 'disarmed, and not yet down');
  t.match(await gate.read(), { isOpen: false });
  autopilot.landed = 1;
  await until(says(gate, true), 'it is on the ground');
  await sleep(1000);
  t.match(await gate.read(), { isOpen: true }, 'and stays there');
  autopilot.close();
  await until(says(gate, false), 'it is silent');
  t.match(await gate.read(), { reason: 'autopilot 1/1 was heard and is silent' });
  await gate.close();
});

t.test('strangers, ground stations, halves of frames and noise open nothing', async (t) => {
  const port = await freeUdpPort();
  const gate = new MavlinkGate(policy, settings, onUdp(port));
  const socket = createSocket('udp4');
  const send = (bytes: Uint8Array) =>
    new Promise<void>((resolve) => socket.send(bytes, port, '127.0.0.1', () => resolve()));
  const calm = heartbeat({ type: 2, autopilot: 12, baseMode: 0, customMode: 0 });
  const down = landedState(1);
  const good = [frame2(calm), frame2(down)];
  const bad = [
    ...[calm, down].map((content) => frame2({ ...content, systemId: 2 })),
    ...[calm, down].map((content) => frame2({ ...content, componentId: 190 })),
    frame2(heartbeat({ type: 6, autopilot: 8, baseMode: 0, customMode: 0 })),
    // The two halves of a frame, from one sender, are not put together.
    ...good.flatMap((frame) => [frame.subarray(0, 9), frame.subarray(9)]),
    ...good.map((frame) => frame.map((byte, index) => (index === 12 ? byte ^ 1 : byte))),
    new Uint8Array(1400).fill(0xfd),
    new Uint8Array(0),
  ];
  for (let round = 0; round < 5; round++) for (const bytes of bad) await send(bytes);
  await sleep(300);
  t.match(await gate.read(), { isOpen: null, reason: /has not been heard, but (1\/190|2\/1) was/ });
  for (const bytes of good) await send(bytes);
  await until(says(gate, true), 'the real one is heard');
  socket.close();
  await gate.close();
});

t.test('a port that is taken is said, and opened when it is free', async (t) => {
  const port = await freeUdpPort();
  const other = createSocket('udp4');
  await new Promise<void>((resolve) => other.bind({ address: '127.0.0.1', port, exclusive: true }, resolve));
  const gate = new MavlinkGate(policy, settings, onUdp(port));
  await until(async () => /EADDRINUSE/.test((await gate.read()).reason), 'it says why');
  t.match(await gate.read(), { isOpen: null });
  await new Promise<void>((resolve) => other.close(resolve));
  const autopilot = new Autopilot(port, 50);
  Object.assign(autopilot, { isArmed: false, landed: 1 });
  await until(says(gate, true), 'it listens');
  autopilot.close();
  await gate.close();
});

t.test(
  'over a serial line: frames in pieces and noise between them; a line that goes is told, and found again',
  async (t) => {
    const folder = t.testdir();
    const program = join(folder, 'pty');
    const source = fileURLToPath(new URL('../../../../native/test/pty_cat.c', import.meta.url));
    await promisify(execFile)('cc', ['-Wall', '-Werror', '-o', program, source]);
    const terminal = spawn(program, [], { stdio: ['pipe', 'pipe', 'inherit'] });
    const [text] = (await once(terminal.stdout.setEncoding('utf8'), 'data')) as [string];
    const gate = new MavlinkGate(policy, settings, { kind: 'serial', path: text.trim(), baudRate: 57_600 });
    let isArmed = true;
    const timer = setInterval(() => {
      const beat = heartbeat({ type: 2, autopilot: 12, baseMode: isArmed ? 0x80 : 0, customMode: 0 });
      const frames = Buffer.concat([Buffer.of(0xfe, 0x55, 0xfd), frame2(beat), Buffer.of(0), frame2(landedState(1))]);
      terminal.stdin.write(frames.subarray(0, 17));
      setTimeout(() => terminal.stdin.write(frames.subarray(17)), 20);
    }, 60);
    await until(async () => (await gate.read()).reason === 'the vehicle is armed', 'it is heard');
    isArmed = false;
    await until(says(gate, true), 'it is on the ground');
    clearInterval(timer);
    await sleep(50);
    terminal.stdin.end();
    await once(terminal, 'close');
    await until(says(gate, false), 'the line is gone');
    await until(async () => /silent; ./.test((await gate.read()).reason), 'and told');
    t.match(await gate.read(), { reason: /1\/1 was heard and is silent; / });
    await gate.close();
  },
);

t.test('sources as settings name them', async (t) => {
  const parse = (udp: string, serial = '') => parseMavlinkSource({ udp, serial, baudRate: 57_600 });
  t.same(parse('0.0.0.0:14550'), { kind: 'udp', host: '0.0.0.0', port: 14_550 });
  t.same(parse('[::1]:14550'), { kind: 'udp', host: '::1', port: 14_550 });
  t.same(parse('', '/dev/ttyACM0'), { kind: 'serial', path: '/dev/ttyACM0', baudRate: 57_600 });
  for (const [udp, serial] of [
    ['', ''],
    ['a:1', '/dev/x'],
    ['14550', ''],
    ['host:0', ''],
    ['host:70000', ''],
    ['::1:5', ''],
  ]) {
    t.throws(() => parse(udp!, serial!), { code: 'settings/invalid' }, `${udp} ${serial}`);
  }
});
