/** MAVLink frames: known ones, random ones against another implementation, cut, damaged, in noise; and what they say of a flight. */
import t from 'tap';
import { type FlightSettings, heard, judgeFlight, unheard } from '../../../../agent/core/gates/flight.js';
import { type MavlinkMessage, MavlinkReader } from '../../../../agent/core/gates/mavlink.js';
import { checksum, type FrameContent, frame1, frame2, heartbeat, landedState } from '../../../support/mavlink.js';
import { announceSeed, Random } from '../../../support/seed.js';

const seed = announceSeed();
const read = (...pieces: Uint8Array[]) => {
  const reader = new MavlinkReader();
  return pieces.flatMap((piece) => reader.push(piece));
};
const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));
const joined = (pieces: readonly Uint8Array[]) => Uint8Array.from(Buffer.concat(pieces));
const bytesOf = (random: Random, length: number) => Uint8Array.from({ length }, () => random.below(256));

/** A message that is read, in either version, signed or not, with what must come out. */
function known(random: Random): { frame: Uint8Array; message: MavlinkMessage } {
  const [systemId, componentId, sequence] = [1 + random.below(255), random.below(256), random.below(256)];
  const from = { systemId, componentId, sequence };
  const write = (content: FrameContent) => {
    const version = random.below(3);
    if (version === 0) return frame1({ ...content, ...from });
    return frame2({ ...content, ...from, ...(version === 2 ? { signature: bytesOf(random, 13) } : {}) });
  };
  if (random.below(2) === 0) {
    const state = random.below(6);
    const message = { name: 'extendedSystemState', systemId, componentId, landedState: state } as const;
    return { frame: write(landedState(state)), message };
  }
  const [type, autopilot, baseMode, customMode] = [
    random.below(45),
    random.below(20),
    random.below(256),
    random.below(2 ** 32),
  ];
  const isArmed = baseMode >= 128;
  const message = { name: 'heartbeat', systemId, componentId, type, autopilot, isArmed } as const;
  return { frame: write(heartbeat({ type, autopilot, baseMode, customMode })), message };
}

/** A frame of a message that is not read: its length and id are anything. */
function unknown(random: Random): Uint8Array {
  const isFirst = random.below(2) === 0;
  const limit = isFirst ? 256 : 2 ** 24;
  let messageId = 0;
  while (messageId === 0 || messageId === 245) messageId = random.below(limit);
  const content = { messageId, payload: bytesOf(random, 1 + random.below(255)), crcExtra: random.below(256) };
  return isFirst ? frame1(content) : frame2(content);
}

t.test('frames that other implementations have written are read', async (t) => {
  // Of version 1, and of version 2 as pymavlink writes them: a ground station, an armed autopilot.
  t.same(read(hex('fe 09 4e 01 01 00 00 00 00 00 02 03 51 04 03 1c 7f')), [
    { name: 'heartbeat', systemId: 1, componentId: 1, type: 2, autopilot: 3, isArmed: false },
  ]);
  t.same(read(hex('fd 09 00 00 00 01 01 00 00 00 00 00 00 00 06 08 00 00 03 6b e3')), [
    { name: 'heartbeat', systemId: 1, componentId: 1, type: 6, autopilot: 8, isArmed: false },
  ]);
  t.same(read(hex('fd 09 00 00 00 01 01 00 00 00 0a 00 00 00 01 03 81 03 03 80 57')), [
    { name: 'heartbeat', systemId: 1, componentId: 1, type: 1, autopilot: 3, isArmed: true },
  ]);
  // The check value of CRC-16/MCRF4XX.
  t.equal(checksum(new TextEncoder().encode('123456789')), 0x6f91);
});

t.test('any mixture of frames is read whole, however it is cut into pieces', async (t) => {
  const random = new Random(seed);
  for (let round = 0; round < 300; round++) {
    const frames: Uint8Array[] = [];
    const expected: MavlinkMessage[] = [];
    for (let count = 1 + random.below(12); count > 0; count--) {
      if (random.below(3) === 0) frames.push(unknown(random));
      else {
        const { frame, message } = known(random);
        frames.push(frame);
        expected.push(message);
      }
    }
    const stream = joined(frames);
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < stream.length; ) {
      const end = at + 1 + random.below(random.pick([1, 10, 400]));
      pieces.push(stream.subarray(at, end));
      at = end;
    }
    const found = read(...pieces);
    if (JSON.stringify(found) !== JSON.stringify(expected)) return t.same(found, expected, `round ${round}`);
  }
  t.pass();
});

t.test('a frame inside of another message is not taken for one', async (t) => {
  const random = new Random(seed);
  for (let round = 0; round < 100; round++) {
    const inner = joined([known(random).frame, known(random).frame]);
    const outer = { messageId: 110, payload: joined([bytesOf(random, random.below(100)), inner]), crcExtra: 84 };
    const { frame, message } = known(random);
    t.same(read(frame, frame2(outer), frame1(outer), frame), [message, message]);
  }
});

t.test('a frame with flipped bits is never taken', async (t) => {
  const random = new Random(seed);
  let taken = 0;
  for (let round = 0; round < 60; round++) {
    const { frame } = known(random);
    const signed = frame[0] === 0xfd && (frame[2]! & 1) === 1 ? 13 : 0;
    // A signature is not looked at; every other byte counts.
    const bits = (frame.length - signed) * 8;
    for (let bit = 0; bit < bits; bit++) {
      const flipped = frame.slice();
      for (const at of [bit, ...(round % 2 === 0 ? [] : [random.below(bits)])]) {
        flipped[at >> 3] = flipped[at >> 3]! ^ (1 << (at & 7));
      }
      if (flipped.every((byte, index) => byte === frame[index])) continue;
      const found = read(flipped);
      // With another length, checksums are of other bytes: one in 65536 fits.
      if (found.length > 0 && !(flipped[1] !== frame[1] && isSealed(flipped)))
        return t.fail(`bit ${bit} of ${Buffer.from(frame).toString('hex')}`);
      taken += found.length;
    }
  }
  t.comment(`${taken} taken by chance`);
  t.ok(taken < 3);
});

/** Whether the checksum of a frame of version 2 is right for the length that it gives. */
function isSealed(frame: Uint8Array): boolean {
  const end = 10 + frame[1]!;
  const extra = frame[7] === 0 ? 50 : 130;
  const crc = checksum([...frame.subarray(1, end), extra]);
  return frame[end] === (crc & 0xff) && frame[end + 1] === crc >> 8;
}

t.test('noise is read over: nothing is made of it, it is not kept, and frames behind it are found', async (t) => {
  const random = new Random(seed);
  for (let round = 0; round < 60; round++) {
    const noise = bytesOf(random, random.below(2000));
    // Much of it looks like the beginnings of frames.
    for (let at = 0; at < noise.length; at++) if (random.below(4) === 0) noise[at] = random.pick([0xfe, 0xfd]);
    const frames = Array.from({ length: 60 }, () => known(random));
    const reader = new MavlinkReader();
    const found = reader.push(noise);
    if (found.length > 0) return t.fail(`${found.length} messages in noise`);
    const after = reader.push(joined(frames.map(({ frame }) => frame)));
    const last = frames.slice(-30).map(({ message }) => message);
    if (JSON.stringify(after.slice(-30)) !== JSON.stringify(last))
      return t.same(after.slice(-30), last, `round ${round}`);
  }
  t.pass();
});

t.test('frames with flags that are not known are passed over', async (t) => {
  const frame = frame2(landedState(1));
  frame[2] = 2;
  const crc = checksum([...frame.subarray(1, frame.length - 2), 130]);
  frame.set([crc & 0xff, crc >> 8], frame.length - 2);
  t.same(read(frame), []);
});

const settings: FlightSettings = { systemId: 1, componentId: 1, silentSeconds: 5, landed: 'required' };
const beat = (isArmed: boolean, from = {}): MavlinkMessage => ({
  name: 'heartbeat',
  systemId: 1,
  componentId: 1,
  type: 2,
  autopilot: 12,
  isArmed,
  ...from,
});
const landed = (state: number, from = {}): MavlinkMessage => ({
  name: 'extendedSystemState',
  systemId: 1,
  componentId: 1,
  landedState: state,
  ...from,
});

t.test('open only while disarmed and on the ground, and told so lately', async (t) => {
  const judge = (messages: readonly [number, MavlinkMessage][], nowMs: number, of = settings) =>
    judgeFlight(
      messages.reduce((state, [atMs, message]) => heard(state, message, atMs, of), unheard),
      nowMs,
      of,
    ).isOpen;
  t.equal(judge([], 0), null, 'never heard');
  t.equal(judge([[0, beat(false)]], 0), false, 'landed is not told');
  t.equal(judge([[0, landed(1)]], 0), null, 'a landed state alone is no heartbeat');
  const ground: [number, MavlinkMessage][] = [
    [0, beat(false)],
    [0, landed(1)],
  ];
  t.equal(judge(ground, 5000), true);
  t.equal(judge(ground, 5001), false, 'silent');
  t.equal(judge([...ground, [6000, beat(false)]], 6000), false, 'the landed state is old');
  t.equal(judge([...ground, [1, beat(true)]], 1), false, 'armed');
  for (const state of [0, 2, 3, 4, 5, 99]) t.equal(judge([...ground, [1, landed(state)]], 1), false, `state ${state}`);
  const loose = { ...settings, landed: 'if-told' } as const;
  t.equal(judge([[0, beat(false)]], 0, loose), true);
  t.equal(judge([...ground, [1, landed(2)]], 1, loose), false);
  t.equal(judge([...ground, [6000, beat(false)]], 6000, loose), false, 'it was told before');
  t.equal(judge([...ground, [1, landed(2)]], 1, { ...settings, landed: 'ignored' }), true);
});

t.test('other systems, other components and ground stations say nothing of this vehicle', async (t) => {
  const strangers: MavlinkMessage[] = [
    beat(false, { systemId: 2 }),
    beat(false, { componentId: 191 }),
    beat(false, { type: 6, autopilot: 8 }),
    beat(false, { autopilot: 8 }),
    landed(1, { systemId: 2 }),
    landed(1, { componentId: 2 }),
  ];
  const hear = (messages: readonly MavlinkMessage[]) =>
    judgeFlight(
      messages.reduce((state, message) => heard(state, message, 0, settings), unheard),
      0,
      settings,
    );
  t.equal(hear(strangers).isOpen, null);
  t.match(hear(strangers).reason, /1\/1 has not been heard, but 1\/191 was/);
  t.equal(hear([beat(true), landed(2), ...strangers]).isOpen, false);
  t.equal(hear([beat(false), landed(1), beat(true, { systemId: 2 }), landed(2, { systemId: 2 })]).isOpen, true);
});
