/** Firmware that needs no board: a process of this machine, or one in QEMU; both answer on a pseudo-terminal. */
import { type ChildProcess, spawn } from 'node:child_process';
import { EdgeError } from '../../configs/contracts/errors.js';
import { firmwareFolder, readBuild } from './builds.js';

/** What a firmware is started with. */
export interface FirmwareOptions {
  /** Only `host`: a file that keeps the slots, as flash would. Without it they are gone with the process. */
  readonly storage?: string;
  /** A file with an image, in the slot for what came with the board. */
  readonly preloaded?: string;
  /** Only `host`: kills the firmware when so many bytes were erased and written; for tests. */
  readonly cutPowerAfterBytes?: number;
}

/** A firmware that runs. It ends with this process, however that ends. */
export interface FirmwareProcess {
  readonly path: string;
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>;
  stop(): Promise<void>;
}

const startTimeoutMs = 10_000;

/** Runs a program that ends when this process does: whoever holds the pipe to its standard input is dead when it closes. */
const guard = 'exec 3<&0; (cat <&3 >/dev/null; kill -9 $$) & exec "$@" </dev/null 3<&-';

/** Starts the firmware of a board. Fails with `mcu/no-firmware`. */
export async function startFirmware(board: string, options: FirmwareOptions = {}): Promise<FirmwareProcess> {
  const { file, emulator, preloadedOrigin } = readBuild(board);
  const program = `${firmwareFolder}${file}`;
  const { storage, preloaded, cutPowerAfterBytes } = options;
  if (emulator === null) {
    const args = [
      ...(storage === undefined ? [] : ['--storage', storage]),
      ...(preloaded === undefined ? [] : ['--preloaded', preloaded]),
      ...(cutPowerAfterBytes === undefined ? [] : ['--cut-power-after', String(cutPowerAfterBytes)]),
    ];
    return start(board, spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] }), /^pty (\S+)$/m);
  }
  const args = [
    ...['qemu-system-arm', '-M', emulator.machine, '-display', 'none', '-monitor', 'none', '-serial', 'pty'],
    ...['-icount', `shift=${emulator.shift},sleep=off`, '-kernel', program],
    ...(preloaded === undefined ? [] : ['-device', `loader,file=${preloaded},addr=${preloadedOrigin},force-raw=on`]),
  ];
  const child = spawn('/bin/sh', ['-c', guard, 'sh', ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  return start(board, child, /redirected to (\S+)/);
}

function start(board: string, child: ChildProcess, announcement: RegExp): Promise<FirmwareProcess> {
  const ended = new Promise<void>((resolve) => {
    child.once('error', () => resolve());
    child.once('exit', () => resolve());
  });
  child.stdin?.on('error', () => {});
  const stop = async () => {
    child.stdin?.destroy();
    child.kill('SIGKILL');
    await ended;
  };
  return new Promise((resolve, reject) => {
    let output = '';
    const fail = (what: string) => {
      clearTimeout(timer);
      void stop();
      const message = `the firmware for ${board} ${what}${output === '' ? '' : `: ${output.trim()}`}`;
      const hint = 'Run `npm run firmware`; a board in QEMU also needs qemu-system-arm.';
      reject(new EdgeError('mcu/no-firmware', message, { subject: board, hint }));
    };
    const timer = setTimeout(() => fail('did not start in time'), startTimeoutMs);
    const take = (text: string) => {
      output = (output + text).slice(-2000);
      const path = announcement.exec(output)?.[1];
      if (path === undefined) return;
      clearTimeout(timer);
      resolve({ path, ended, stop });
    };
    child.stdout?.setEncoding('utf8').on('data', take);
    child.stderr?.setEncoding('utf8').on('data', take);
    ended.then(() => fail('ended'));
  });
}
