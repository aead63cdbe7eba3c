import { fileURLToPath } from 'node:url';
import { crc32 as zlibCrc32 } from 'node:zlib';
import t from 'tap';
import {
  commands,
  decodeRecord,
  encodeRecord,
  type Fields,
  frameBytes,
  pieceBytes,
  recordBytes,
  statuses,
  statusName,
} from '../../configs/contracts/mcu.js';
import { crc32, encodeFrame, type Frame, FrameReader, stuff, unstuff } from '../../firmware-bridge/link/framing.js';
import { runProgram } from '../support/c-program.js';
import { announceSeed, Random } from '../support/seed.js';

const seed = announceSeed();

/** Bytes with runs of every length around the limits of a block, with and without zeros. */
function someBytes(random: Random, most: number): Uint8Array {
  const bytes: number[] = [];
  const length = random.below(most + 1);
  while (bytes.length < length) {
    const run = random.pick([0, 1, 2, 7, 253, 254, 255, 508, 509, random.below(600)]);
    for (let i = 0; i < run; i++) bytes.push(1 + random.below(255));
    if (random.next() < 0.8) bytes.push(0);
  }
  return Uint8Array.from(bytes.slice(0, length));
}

/** COBS as its definition says it: the stretches between zeros, each in blocks of up to 254 bytes. */
function stuffedByDefinition(bytes: Uint8Array): number[] {
  const stretches: number[][] = [[]];
  for (const byte of bytes) {
    if (byte === 0) stretches.push([]);
    else stretches.at(-1)!.push(byte);
  }
  return stretches.flatMap((stretch, index) => {
    const blocks: number[][] = [];
    let rest = stretch;
    for (; rest.length >= 254; rest = rest.slice(254)) blocks.push([255, ...rest.slice(0, 254)]);
    const endsFull = index === stretches.length - 1 && rest.length === 0 && blocks.length > 0;
    if (!endsFull) blocks.push([rest.length + 1, ...rest]);
    return blocks.flat();
  });
}

t.test('bytes are stuffed as the definition says, and come out as they went in', async (t) => {
  const random = new Random(seed);
  const edges = [0, 1, 253, 254, 255, 508, 509, 762].flatMap((length) => [
    new Uint8Array(length).fill(7),
    Uint8Array.from([...new Uint8Array(length).fill(7), 0]),
    Uint8Array.from([0, ...new Uint8Array(length).fill(7)]),
    new Uint8Array(length),
  ]);
  for (const bytes of [...edges, ...Array.from({ length: 3000 }, () => someBytes(random, 1200))]) {
    const stuffed = stuff(bytes);
    if (!Buffer.from(stuffed).equals(Buffer.from(stuffedByDefinition(bytes)))) return t.fail(`wrong: ${bytes}`);
    if (stuffed.includes(0)) return t.fail(`a zero: ${bytes}`);
    if (!Buffer.from(unstuff(stuffed) ?? []).equals(bytes)) return t.fail(`not reversed: ${bytes}`);
  }
  t.equal(unstuff(Uint8Array.of(3, 1)), null, 'a block that is cut off');
  t.equal(unstuff(new Uint8Array(0)), null, 'nothing');
});

t.test('checksums are those of zlib', async (t) => {
  const random = new Random(seed + 1);
  for (let n = 0; n < 200; n++) {
    const bytes = someBytes(random, 300);
    if (crc32(bytes) !== zlibCrc32(bytes)) return t.fail(`of ${bytes}`);
  }
});

const frameOf = (random: Random): Frame => ({
  header: { sequence: random.below(2 ** 32), command: random.below(2 ** 16), status: random.below(2 ** 16) },
  payload: someBytes(random, pieceBytes),
});

t.test('frames come out whole however the line cuts them', async (t) => {
  const random = new Random(seed + 2);
  const frames = Array.from({ length: 200 }, () => frameOf(random));
  const line = Buffer.concat(frames.map(encodeFrame));
  const reader = new FrameReader();
  const found: Frame[] = [];
  for (let at = 0; at < line.length; ) {
    const next = at + 1 + random.below(random.pick([1, 10, 3000]));
    found.push(...reader.push(line.subarray(at, next)));
    at = next;
  }
  t.strictSame(found, frames);
  t.equal(reader.damaged, 0);
});

t.test('a damaged line gives fewer frames, never other ones', async (t) => {
  const random = new Random(seed + 3);
  const reader = new FrameReader();
  // A frame that lost its last zero comes out with the next one's first.
  const sent = new Map<number, Frame>();
  let whole = 0;
  const rounds = 2000;
  for (let round = 0; round < rounds; round++) {
    const frame = frameOf(random);
    sent.set(frame.header.sequence, frame);
    const line = [...encodeFrame(frame)];
    for (let faults = random.below(4); faults > 0; faults--) {
      const at = random.below(line.length);
      const kind = random.below(4);
      if (kind === 0) line[at]! ^= 1 << random.below(8);
      else if (kind === 1) line.splice(at, 1 + random.below(5));
      else if (kind === 2) line.splice(at, 0, ...line.slice(at, at + 1 + random.below(5)));
      else line.splice(at, line.length);
      if (line.length === 0) break;
    }
    for (const found of reader.push(Uint8Array.from(line))) {
      whole++;
      const original = sent.get(found.header.sequence);
      if (original === undefined || !Buffer.from(encodeFrame(found)).equals(encodeFrame(original)))
        return t.fail(`round ${round}: another frame came out`);
    }
  }
  t.ok(whole > rounds / 8 && whole < rounds, `${whole} of ${rounds} came through`);
  t.ok(reader.damaged > rounds / 8);
  reader.push(new Uint8Array(100_000).fill(1));
  const last = frameOf(random);
  t.strictSame(
    reader.push(Uint8Array.from([0, ...encodeFrame(last)])),
    [last],
    'after an endless one, the next is found',
  );
});

t.test('every record is as long as its fields and comes out as it went in', async (t) => {
  const random = new Random(seed + 4);
  const value = (type: Fields[string]) => {
    if (type === 'u16') return random.below(2 ** 16);
    if (type === 'u32') return random.below(2 ** 32);
    if (type === 'u64') return random.below(2 ** 53);
    if (type === 'text32') return 'é'.repeat(random.below(17));
    return type === 'data' ? someBytes(random, pieceBytes) : Uint8Array.from({ length: 32 }, () => random.below(256));
  };
  for (const [name, { request, reply }] of Object.entries(commands)) {
    for (const fields of [request, reply] as Fields[]) {
      const values = Object.fromEntries(Object.entries(fields).map(([field, type]) => [field, value(type)]));
      const bytes = encodeRecord(fields, values as never);
      const data = 'data' in fields ? (values.data as Uint8Array).length : 0;
      t.equal(bytes.length, recordBytes(fields) + data, name);
      t.ok(bytes.length + 12 <= frameBytes, `${name} fits a frame`);
      t.strictSame(decodeRecord(fields, bytes), values, name);
      if (recordBytes(fields) > 0)
        t.throws(() => decodeRecord(fields, bytes.subarray(0, recordBytes(fields) - 1)), { code: 'mcu/incompatible' });
    }
  }
  t.throws(() => encodeRecord(commands.load.request, { slot: -1 }), RangeError);
  t.throws(() => encodeRecord(commands.load.request, { slot: 2 ** 32 }), RangeError);
  t.throws(() => encodeRecord(commands.echo.request, { data: new Uint8Array(pieceBytes + 1) }), RangeError);
  t.equal(statusName(statuses.digest), 'digest');
  t.equal(statusName(999), null);
});

t.test('the header of the firmware is made of these tables', async (t) => {
  const script = fileURLToPath(new URL('../../scripts/mcu-header.js', import.meta.url));
  const { code, output } = await runProgram(process.execPath, [script, '--check']);
  t.equal(code, 0, output);
});
