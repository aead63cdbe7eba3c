/**
 * Frames over a line that may lose, repeat, change and split bytes: COBS (Cheshire and Baker, 1997) between zero bytes, CRC-32 at the
 * end. A frame comes out as it went in, or not at all.
 */
import {
  decodeRecord,
  encodeRecord,
  frameBytes,
  headerFields,
  type RecordOf,
  recordBytes,
} from '../../configs/contracts/mcu.js';

/** A frame without its checksum. */
export interface Frame {
  readonly header: RecordOf<typeof headerFields>;
  /** Record and data. */
  readonly payload: Uint8Array;
}

const checksumBytes = 4;
const headerBytes = recordBytes(headerFields);
/** A block of COBS without a zero. */
const blockBytes = 254;

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 as zlib has it. */
export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ crcTable[(crc ^ byte) & 0xff]!;
  return ~crc >>> 0;
}

/** The bytes without any zero among them, about one in 254 longer. */
export function stuff(bytes: Uint8Array): Uint8Array {
  const stuffed = new Uint8Array(bytes.length + Math.floor(bytes.length / blockBytes) + 1);
  let used = 0;
  for (let start = 0; ; ) {
    const limit = Math.min(start + blockBytes, bytes.length);
    const zero = bytes.subarray(start, limit).indexOf(0);
    const end = zero < 0 ? limit : start + zero;
    stuffed[used] = end - start + 1;
    stuffed.set(bytes.subarray(start, end), used + 1);
    used += end - start + 1;
    if (end === bytes.length) return stuffed.subarray(0, used);
    // A full block has no zero behind it.
    start = end - start === blockBytes ? end : end + 1;
  }
}

/** What `stuff` was given; null for what it never answers. */
export function unstuff(stuffed: Uint8Array): Uint8Array | null {
  const bytes = new Uint8Array(stuffed.length);
  let used = 0;
  for (let at = 0; at < stuffed.length; ) {
    const code = stuffed[at]!;
    const next = at + code;
    if (code === 0 || next > stuffed.length) return null;
    bytes.set(stuffed.subarray(at + 1, next), used);
    used += code - 1;
    if (code !== blockBytes + 1 && next < stuffed.length) bytes[used++] = 0;
    at = next;
  }
  return stuffed.length === 0 ? null : bytes.subarray(0, used);
}

/** A frame as it goes over the line, zeros around it. Throws a RangeError for what is too long for one. */
export function encodeFrame({ header, payload }: Frame): Uint8Array {
  const total = headerBytes + payload.length + checksumBytes;
  if (total > frameBytes) throw new RangeError(`a frame has at most ${frameBytes} bytes`);
  const bytes = new Uint8Array(total);
  bytes.set(encodeRecord(headerFields, header));
  bytes.set(payload, headerBytes);
  new DataView(bytes.buffer).setUint32(total - checksumBytes, crc32(bytes.subarray(0, total - checksumBytes)), true);
  const stuffed = stuff(bytes);
  const line = new Uint8Array(stuffed.length + 2);
  line.set(stuffed, 1);
  return line;
}

function decodeFrame(stuffed: Uint8Array): Frame | null {
  const bytes = unstuff(stuffed);
  if (bytes === null || bytes.length < headerBytes + checksumBytes || bytes.length > frameBytes) return null;
  const end = bytes.length - checksumBytes;
  const checksum = new DataView(bytes.buffer, bytes.byteOffset).getUint32(end, true);
  if (checksum !== crc32(bytes.subarray(0, end))) return null;
  return { header: decodeRecord(headerFields, bytes.subarray(0, headerBytes)), payload: bytes.slice(headerBytes, end) };
}

/** Finds frames in what a line brings, however it is cut. Keeps no more than one frame's bytes. */
export class FrameReader {
  readonly #bytes = new Uint8Array(stuff(new Uint8Array(frameBytes).fill(1)).length);
  #used = 0;
  #isTooLong = false;
  #damaged = 0;

  /** Stretches between zeros that were no frame. */
  get damaged(): number {
    return this.#damaged;
  }

  /** Answers the frames that end in this chunk. */
  push(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    for (const byte of chunk) {
      if (byte !== 0) {
        if (this.#used < this.#bytes.length) this.#bytes[this.#used++] = byte;
        else this.#isTooLong = true;
        continue;
      }
      // Nothing between two zeros is nothing.
      if (this.#used > 0) {
        const frame = this.#isTooLong ? null : decodeFrame(this.#bytes.subarray(0, this.#used));
        if (frame === null) this.#damaged++;
        else frames.push(frame);
      }
      this.#used = 0;
      this.#isTooLong = false;
    }
    return frames;
  }
}
