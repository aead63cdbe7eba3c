/**
 * MAVLink frames of versions 1 and 2, as far as it takes to hear whether a vehicle is armed and on the ground
 * (https://mavlink.io/en/guide/serialization.html). Pure.
 */

/** A message that was understood. Signatures are passed over, not verified: whoever can send here is believed. */
export type MavlinkMessage = {
  readonly systemId: number;
  readonly componentId: number;
} & (
  | {
      readonly name: 'heartbeat';
      /** MAV_TYPE; 6 is a ground station. */
      readonly type: number;
      /** MAV_AUTOPILOT; 8 is none. */
      readonly autopilot: number;
      readonly isArmed: boolean;
    }
  | {
      readonly name: 'extendedSystemState';
      /** MAV_LANDED_STATE: 0 not known, 1 on the ground, 2 in the air, 3 taking off, 4 landing. */
      readonly landedState: number;
    }
);

const magic1 = 0xfe;
const magic2 = 0xfd;
const signatureBytes = 13;
/** The one incompatibility flag that is known: a signature follows. Frames with others are not to be read. */
const signedFlag = 0x01;
/** MAV_MODE_FLAG_SAFETY_ARMED. */
const armedFlag = 0x80;

/** What is read of messages: the length of their payload in version 1, and the seed that stands for their definition in checksums. */
const definitions: ReadonlyMap<number, { length: number; crcExtra: number }> = new Map([
  [0, { length: 9, crcExtra: 50 }],
  [245, { length: 2, crcExtra: 130 }],
]);

/** A frame, or what looks like one, that begins at some byte. */
interface Header {
  readonly messageId: number;
  readonly systemId: number;
  readonly componentId: number;
  readonly payload: number;
  readonly payloadLength: number;
  readonly frameLength: number;
}

/**
 * Finds messages in a stream that may begin anywhere and be damaged anywhere. Frames of messages that are not known are passed over whole, so
 * that nothing inside of them is taken for a frame; as their checksum cannot be told, only where another frame follows them, or nothing. It
 * never holds more bytes than the longest frame has, beside those it is given.
 */
export class MavlinkReader {
  #rest: Uint8Array = new Uint8Array(0);

  /** The messages that are complete with these bytes. */
  push(bytes: Uint8Array): MavlinkMessage[] {
    const data = new Uint8Array(this.#rest.length + bytes.length);
    data.set(this.#rest);
    data.set(bytes, this.#rest.length);
    const messages: MavlinkMessage[] = [];
    let at = 0;
    while (at < data.length) {
      if (data[at] !== magic1 && data[at] !== magic2) {
        at++;
        continue;
      }
      const header = headerAt(data, at);
      // More is to come; with a length of at most 280 bytes, this ends.
      if (header === 'incomplete') break;
      const end = header === null ? at : at + header.frameLength;
      if (header === null) at++;
      else if (!definitions.has(header.messageId)) {
        if (end > data.length) break;
        const isFollowed = end === data.length || data[end] === magic1 || data[end] === magic2;
        at = isFollowed ? end : at + 1;
      } else if (end > data.length) break;
      else if (hasGoodChecksum(data, at, header)) {
        messages.push(messageOf(data, header));
        at = end;
      } else at++;
    }
    this.#rest = data.slice(at);
    return messages;
  }
}

/** null where no frame that could be read begins here. */
function headerAt(data: Uint8Array, at: number): Header | 'incomplete' | null {
  const isFirst = data[at] === magic1;
  const headerLength = isFirst ? 6 : 10;
  if (at + headerLength > data.length) return 'incomplete';
  const byte = (index: number) => data[at + index]!;
  const payloadLength = byte(1);
  const [sequenceAt, flags] = isFirst ? [2, 0] : [4, byte(2)];
  if ((flags & ~signedFlag) !== 0) return null;
  const messageId = isFirst ? byte(5) : byte(7) | (byte(8) << 8) | (byte(9) << 16);
  const length = definitions.get(messageId)?.length;
  if (isFirst && length !== undefined && payloadLength !== length) return null;
  if (!isFirst && length !== undefined && payloadLength === 0) return null;
  return {
    messageId,
    systemId: byte(sequenceAt + 1),
    componentId: byte(sequenceAt + 2),
    payload: at + headerLength,
    payloadLength,
    frameLength: headerLength + payloadLength + 2 + (flags & signedFlag ? signatureBytes : 0),
  };
}

function hasGoodChecksum(data: Uint8Array, at: number, { messageId, payload, payloadLength }: Header): boolean {
  const end = payload + payloadLength;
  let crc = 0xffff;
  for (let index = at + 1; index < end; index++) crc = crcWith(crc, data[index]!);
  crc = crcWith(crc, definitions.get(messageId)!.crcExtra);
  return data[end] === (crc & 0xff) && data[end + 1] === crc >> 8;
}

/** CRC-16/MCRF4XX, which MAVLink calls X.25. */
function crcWith(crc: number, byte: number): number {
  let mixed = crc ^ byte;
  for (let bit = 0; bit < 8; bit++) mixed = mixed & 1 ? (mixed >> 1) ^ 0x8408 : mixed >> 1;
  return mixed;
}

/** Version 2 leaves out zeros at the end of a payload. */
function messageOf(data: Uint8Array, header: Header): MavlinkMessage {
  const { messageId, systemId, componentId, payload, payloadLength } = header;
  const byte = (index: number) => (index < payloadLength ? data[payload + index]! : 0);
  return messageId === 0
    ? {
        name: 'heartbeat',
        systemId,
        componentId,
        type: byte(4),
        autopilot: byte(5),
        isArmed: (byte(6) & armedFlag) !== 0,
      }
    : { name: 'extendedSystemState', systemId, componentId, landedState: byte(1) };
}
