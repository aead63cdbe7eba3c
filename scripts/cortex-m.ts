/**
 * C programs for Cortex-M on boards that QEMU emulates: compiled with the engine and all kernels, run to their end by semihosting. Used by
 * tests and benchmarks; the firmware has its own start.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const native = fileURLToPath(new URL('../../native/', import.meta.url));

/** Commands that programs for Cortex-M need; Debian has them in the packages of `.ci/run`. */
export const cortexMCommands = ['arm-none-eabi-gcc', 'qemu-system-arm'] as const;

interface Board {
  readonly processor: readonly string[];
  /** In `native/test/cortex-m`. */
  readonly memory: string;
  readonly define: string;
  /** An instruction takes 2^so many nanoseconds of the emulator's time. */
  readonly instructionShift: number;
}

/** Boards by QEMU's names. The first has memory for anything; on the second a tick of the timer is an instruction. */
const boards = {
  'mps2-an386': {
    processor: ['-mcpu=cortex-m4', '-mfpu=fpv4-sp-d16'],
    memory: 'mps2.ld',
    define: 'MPS2',
    instructionShift: 7,
  },
  netduinoplus2: {
    processor: ['-mcpu=cortex-m4', '-mfpu=fpv4-sp-d16'],
    memory: 'stm32f405.ld',
    define: 'STM32F405',
    instructionShift: 0,
  },
  'mps2-an500': {
    processor: ['-mcpu=cortex-m7', '-mfpu=fpv5-sp-d16'],
    memory: 'mps2.ld',
    define: 'MPS2',
    instructionShift: 7,
  },
} as const satisfies Record<string, Board>;

/** Name of an emulated board. */
export type BoardName = keyof typeof boards;

/** Compiles `native/test/PROGRAM.c` for a board; answers the path of the executable. */
export async function compileForBoard(program: string, board: BoardName, flags: readonly string[]): Promise<string> {
  const { processor, memory, define } = boards[board];
  const output = join(mkdtempSync(join(tmpdir(), 'quantd-cortex-m-')), `${program}.elf`);
  const sources = ['engine', 'kernels'].flatMap((folder) =>
    readdirSync(join(native, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.c'))
      .map((name) => join(native, folder, name)),
  );
  const test = join(native, 'test');
  // Formats: int32_t is a long there, of the same size.
  const common = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-Wno-format', '-ffp-contract=off', `-D${define}`];
  const link = ['-T', join(test, 'cortex-m', memory), '--specs=rdimon.specs', '-Wl,--gc-sections', '-lm'];
  const files = [join(test, `${program}.c`), join(test, 'cortex-m/start.c'), ...sources];
  await execute(
    'arm-none-eabi-gcc',
    [...processor, '-mfloat-abi=hard', '-mthumb', '-ffunction-sections', ...common, ...flags, '-o', output].concat(
      files,
      link,
    ),
    { maxBuffer: 2 ** 26 },
  );
  return output;
}

/** Runs a program on a board to its end; what it printed, and its exit code. */
export async function runOnBoard(
  executable: string,
  board: BoardName,
  args: readonly string[],
): Promise<{ readonly code: number; readonly output: string }> {
  const semihosting = ['enable=on', 'target=native', ...['program', ...args].map((value) => `arg=${value}`)].join();
  const options = [
    ...['-M', board, '-nographic', '-monitor', 'none', '-serial', 'null', '-kernel', executable],
    ...['-icount', `shift=${boards[board].instructionShift},sleep=off`, '-semihosting-config', semihosting],
  ];
  return execute('qemu-system-arm', options, { maxBuffer: 2 ** 26 }).then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    (error: { code?: number; stdout?: string; stderr?: string }) => ({
      code: typeof error.code === 'number' ? error.code : 1,
      output: `${error.stdout ?? ''}${error.stderr ?? ''}`,
    }),
  );
}
