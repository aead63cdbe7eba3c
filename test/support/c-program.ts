/** Test programs in C, from `native/test/`, compiled for the occasion. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const native = fileURLToPath(new URL('../../../native/', import.meta.url));
const firmware = fileURLToPath(new URL('../../../firmware-bridge/firmware/', import.meta.url));
const execute = promisify(execFile);

/** C files of the engine and of every kernel, all of which every machine compiles. */
function sources(): string[] {
  const inFolder = (folder: string) =>
    readdirSync(join(native, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.c'))
      .map((name) => join(native, folder, name));
  return [...inFolder('engine'), ...inFolder('kernels')];
}

/** Flags under which every access and every operation is checked; a finding ends the program. */
export const sanitized = [
  '-O1',
  '-g',
  '-fsanitize=address,undefined',
  '-fno-sanitize-recover=undefined',
  '-DKN_SANITIZED',
] as const;

/** Compiles one of the programs with the engine and all kernels; answers the path of the executable. */
export async function compile(program: string, flags: readonly string[], compiler = 'cc'): Promise<string> {
  return compileFiles(program, [join(native, 'test', `${program}.c`)], flags, compiler);
}

/** What engine and kernels, compiled for a Cortex-M4, ask of whoever links them. */
export async function undefinedOnCortexM(): Promise<string[]> {
  const output = join(mkdtempSync(join(tmpdir(), 'quantd-c-')), 'engine.o');
  const flags = ['-mcpu=cortex-m4', '-mthumb', '-mfpu=fpv4-sp-d16', '-mfloat-abi=hard', '-O2', '-ffp-contract=off'];
  await execute('arm-none-eabi-gcc', ['-std=gnu11', ...flags, '-nostdlib', '-r', '-o', output, ...sources()]);
  const { stdout } = await execute('arm-none-eabi-nm', ['--undefined-only', output]);
  return [...stdout.matchAll(/ U (\S+)$/gm)].map(([, name]) => name!);
}

/** Compiles a program of the firmware's `fuzz/` with all of the firmware but a board, on the kernels that a microcontroller has. */
export async function compileFuzzer(program: string): Promise<string> {
  const files = readdirSync(firmware).filter((name) => name.endsWith('.c') && name !== 'main.c');
  const paths = [join('fuzz', `${program}.c`), ...files].map((name) => join(firmware, name));
  return compileFiles(program, paths, [...sanitized, '-DKN_PORTABLE', `-I${join(firmware, 'fuzz')}`], 'cc');
}

async function compileFiles(
  program: string,
  files: readonly string[],
  flags: readonly string[],
  compiler: string,
): Promise<string> {
  const output = join(mkdtempSync(join(tmpdir(), 'quantd-c-')), program);
  const common = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-ffp-contract=off'];
  await execute(compiler, [...common, ...flags, '-o', output, ...files, ...sources()], { maxBuffer: 2 ** 26 });
  return output;
}

/** Runs a program to its end, with more in its environment if wanted; what it printed, and its exit code. */
export async function runProgram(
  path: string,
  args: readonly string[],
  more: Readonly<Record<string, string>> = {},
): Promise<{ code: number; output: string }> {
  return execute(path, [...args], { maxBuffer: 2 ** 26, env: { ...process.env, ...more } }).then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    (error: { code?: number; stdout?: string; stderr?: string }) => ({
      code: typeof error.code === 'number' ? error.code : 1,
      output: `${error.stdout ?? ''}${error.stderr ?? ''}`,
    }),
  );
}

/** Whether a program can be started here. */
export async function isInstalled(command: string): Promise<boolean> {
  return execute(command, ['--version']).then(
    () => true,
    () => false,
  );
}
