/** Images into the slots of a microcontroller. */
import { createHash } from 'node:crypto';
import { EdgeError } from '../configs/contracts/errors.js';
import { pieceBytes } from '../configs/contracts/mcu.js';
import { McuRefusal } from './link/connection.js';
import { crc32 } from './link/framing.js';
import type { Mcu } from './mcu.js';

/** How an upload is watched. */
export interface UploadOptions {
  /** Ends the upload after the piece that is under way; it can be resumed. */
  readonly signal?: AbortSignal;
  /** Called with the bytes that the slot holds, the first time with those that an earlier upload has left. */
  readonly progress?: (doneBytes: number, totalBytes: number) => void;
}

/** A slot that nothing depends on: neither the active one, nor what a trial goes back to. Fails with `mcu/refused` where there is none. */
export async function spareSlot(mcu: Mcu): Promise<number> {
  const { activeSlot, previousSlot, isOnTrial } = await mcu.activation();
  const spare = [0, 1].find((slot) => slot !== activeSlot && !(isOnTrial && slot === previousSlot));
  if (spare !== undefined) return spare;
  const hint = 'Confirm or revert the activation that is on trial first.';
  throw new EdgeError('mcu/refused', 'no slot is free', { subject: mcu.connection.name, hint });
}

/**
 * Brings an image into a slot and seals it. An upload that was cut off, on either side, goes on at the first byte that is missing; one that
 * was finished is finished at once. Fails with `mcu/refused` where the slot is in use or too small, or the engine refuses the image.
 */
export async function upload(mcu: Mcu, slot: number, image: Uint8Array, options: UploadOptions = {}): Promise<void> {
  const { signal, progress } = options;
  const { connection } = mcu;
  const hash = createHash('sha256').update(image).digest();
  const state = await mcu.slotState(slot);
  if (image.length > state.capacityBytes) {
    const message = `the image has ${image.length} bytes, and slot ${slot} has room for ${state.capacityBytes}`;
    throw new EdgeError('mcu/refused', message, { subject: connection.name, hint: 'Tighten the budget for flash.' });
  }
  if (state.image?.sha256 !== hash.toString('hex')) {
    await connection.request('slotOpen', { slot });
    let offset = await firstMissing(mcu, slot, image);
    let erased: number | null = null;
    while (offset < image.length) {
      signal?.throwIfAborted();
      progress?.(offset, image.length);
      const data = image.subarray(offset, offset + pieceBytes);
      try {
        await connection.request('slotWrite', { slot, offset, data });
        offset += data.length;
      } catch (error) {
        if (!(error instanceof McuRefusal) || error.status !== 'notErased' || error.detail === erased) throw error;
        // Pieces of the same sector in front of this one are erased with it.
        erased = error.detail;
        await connection.request('slotErase', { slot, offset: erased });
        offset = Math.min(offset, erased);
      }
    }
    await connection.request('slotSeal', { slot, bytes: image.length, sha256: hash });
  }
  progress?.(image.length, image.length);
}

/** Where the slot begins to differ from the image, rounded down to a piece: by the checksums of ever closer beginnings. */
async function firstMissing(mcu: Mcu, slot: number, image: Uint8Array): Promise<number> {
  const isWritten = async (pieces: number) => {
    const bytes = Math.min(pieces * pieceBytes, image.length);
    const reply = await mcu.connection.request('slotChecksum', { slot, bytes });
    return reply.crc32 === crc32(image.subarray(0, bytes));
  };
  let written = 0;
  let missing = Math.ceil(image.length / pieceBytes) + 1;
  while (missing - written > 1) {
    const middle = written + Math.floor((missing - written) / 2);
    if (await isWritten(middle)) written = middle;
    else missing = middle;
  }
  return Math.min(written * pieceBytes, image.length);
}
