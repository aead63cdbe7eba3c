/** Where `npm run firmware` leaves its firmware, and what it says of it. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { EdgeError } from '../../configs/contracts/errors.js';

/** What is beside a built firmware as `BOARD.json`. */
export interface FirmwareBuild {
  readonly board: string;
  /** File name of the program. */
  readonly file: string;
  /** Of what it was made; what the firmware says of itself in `info`. */
  readonly firmware: string;
  /** QEMU's machine, and the power of two of nanoseconds that an instruction takes there; null: none emulates the board. */
  readonly emulator: { readonly machine: string; readonly shift: number } | null;
  /** Address of the slot that holds what came with the board; null: there is none in its memory. */
  readonly preloadedOrigin: number | null;
}

/** The folder of built firmware: beside this compiled file. */
export const firmwareFolder = fileURLToPath(new URL('../../firmware/', import.meta.url));

/** The build for a board. Fails with `mcu/no-firmware` where there is none. */
export function readBuild(board: string): FirmwareBuild {
  try {
    return JSON.parse(readFileSync(`${firmwareFolder}${board}.json`, 'utf8')) as FirmwareBuild;
  } catch (cause) {
    const message = `there is no firmware for the board ${board} here`;
    throw new EdgeError('mcu/no-firmware', message, { subject: board, cause });
  }
}
