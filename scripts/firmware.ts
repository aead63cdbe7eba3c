/**
 * `npm run firmware [-- BOARD...]`: compiles the firmware for every board of `configs/boards/` that the installed compilers allow, into
 * `dist/firmware`: a program for `host`, an ELF file and its sizes for the others, and beside each a JSON of what the bridge needs to
 * start it. With `--check`, a board that cannot be built is an error.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { parse } from 'smol-toml';
import type { FirmwareBuild } from '../firmware-bridge/link/builds.js';

/** What a file of `configs/boards/` says; sizes are bytes. */
interface Board {
  readonly core: string;
  readonly clockHz: number;
  /** In `firmware-bridge/firmware/board/`. */
  readonly sources: readonly string[];
  readonly flags?: readonly string[];
  readonly stackBytes?: number;
  readonly workspaceBytes?: number;
  readonly timerHz?: number;
  readonly chip: { readonly ramBytes: number; readonly flashBytes: number };
  readonly flash?: { readonly origin: number; readonly bytes: number };
  readonly ram?: { readonly origin: number; readonly bytes: number };
  readonly storage: { readonly origin?: number; readonly sectorBytes: number; readonly slotBytes: number };
  readonly preloaded?: { readonly origin: number; readonly bytes: number };
  /** QEMU's machine; an instruction takes 2^shift ns of its time. */
  readonly emulator?: { readonly machine: string; readonly shift: number };
}

const execute = promisify(execFile);
const root = fileURLToPath(new URL('../../', import.meta.url));
const firmware = join(root, 'firmware-bridge', 'firmware');
const output = join(root, 'dist', 'firmware');

const common = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-ffp-contract=off', '-fno-trapping-math'];
/** No loop becomes a call of itself, and nothing that is not called stays. */
const embedded = ['-O2', '-mthumb', '-ffunction-sections', '-fdata-sections', '-fno-tree-loop-distribute-patterns'];

function sourcesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.[ch]$|\.def$/.test(name))
    .sort()
    .map((name) => join(folder, name));
}

/** Everything that a firmware may be made of, headers included. */
const sources = [
  ...['engine', 'kernels'].flatMap((folder) => sourcesBelow(join(root, 'native', folder))),
  ...sourcesBelow(firmware).filter((path) => !path.startsWith(join(firmware, 'fuzz'))),
];

function digestOf(board: Board, flags: readonly string[]): string {
  const hash = createHash('sha256').update(JSON.stringify([board, flags]));
  for (const path of sources) hash.update(path.slice(root.length)).update(readFileSync(path));
  return hash.digest('hex').slice(0, 16);
}

const hexadecimal = (value: number) => `0x${value.toString(16)}u`;

function header(name: string, board: Board, digest: string): string {
  const { chip, storage, preloaded, emulator } = board;
  const defines: [string, string][] = [
    ['NAME', JSON.stringify(name)],
    ['CORE', JSON.stringify(board.core)],
    ['FIRMWARE', JSON.stringify(digest)],
    ['CLOCK_HZ', `${board.clockHz}u`],
    ['TIMER_HZ', `${board.timerHz ?? 1}u`],
    ['EMULATED_SHIFT', `${emulator?.shift ?? 0}`],
    ['RAM_BYTES', hexadecimal(chip.ramBytes)],
    ['FLASH_BYTES', hexadecimal(chip.flashBytes)],
    ['WORKSPACE_BYTES', hexadecimal(board.workspaceBytes ?? 0)],
    ['STORAGE_ORIGIN', hexadecimal(storage.origin ?? 0)],
    ['SECTOR_BYTES', hexadecimal(storage.sectorBytes)],
    ['SLOT_BYTES', hexadecimal(storage.slotBytes)],
    ['PRELOADED_ORIGIN', hexadecimal(preloaded?.origin ?? 0)],
    ['PRELOADED_BYTES', hexadecimal(preloaded?.bytes ?? 0)],
  ];
  const lines = defines.map(([key, value]) => `#define BD_${key} ${value}\n`);
  return `/* Made of configs/boards/${name}.toml by scripts/firmware.ts. */\n${lines.join('')}`;
}

function memories({ flash, ram, stackBytes }: Board): string {
  const line = (name: string, flags: string, { origin, bytes }: { origin: number; bytes: number }) =>
    `  ${name} (${flags}) : ORIGIN = ${origin}, LENGTH = ${bytes}\n`;
  return `MEMORY\n{\n${line('FLASH', 'rx', flash!)}${line('RAM', 'rwx', ram!)}}\nSTACK_BYTES = ${stackBytes};\n`;
}

/** Whether what is there was made of the same sources with the same flags. */
function isBuilt(name: string, file: string, digest: string): boolean {
  const facts = join(output, `${name}.json`);
  if (!existsSync(facts) || !existsSync(join(output, file))) return false;
  return (JSON.parse(readFileSync(facts, 'utf8')) as FirmwareBuild).firmware === digest;
}

/** Compiles one board; answers the sizes of its sections, as `size` prints them, or null where nothing had changed. */
async function build(name: string, board: Board): Promise<string | null> {
  const isHost = board.core === 'host';
  const work = join(output, 'build', name);
  mkdirSync(work, { recursive: true });
  // On the host, kernels of its own processor would hide what a microcontroller does.
  const flags = isHost ? ['-O2', '-DKN_PORTABLE'] : [...embedded, ...(board.flags ?? [])];
  const link = isHost
    ? []
    : [
        `-L${work}`,
        `-T${join(firmware, 'board', 'cortex_m.ld')}`,
        '-nostartfiles',
        '--specs=nano.specs',
        '-Wl,--gc-sections',
      ];
  const digest = digestOf(board, [...common, ...flags]);
  const file = isHost ? name : `${name}.elf`;
  if (isBuilt(name, file, digest)) return null;
  writeFileSync(join(work, 'board.h'), header(name, board, digest));
  if (!isHost) writeFileSync(join(work, 'memory.ld'), memories(board));
  const files = [
    ...sources.filter((path) => path.endsWith('.c') && !path.startsWith(join(firmware, 'board'))),
    ...board.sources.map((file) => join(firmware, 'board', file)),
  ];
  const made = join(work, file);
  await execute(compilerOf(board), [...common, ...flags, `-I${work}`, ...link, ...files, '-o', made], {
    maxBuffer: 2 ** 26,
  });
  const facts: FirmwareBuild = {
    board: name,
    file,
    firmware: digest,
    emulator: board.emulator ?? null,
    preloadedOrigin: board.preloaded?.origin ?? null,
  };
  writeFileSync(join(work, 'facts.json'), `${JSON.stringify(facts, null, 2)}\n`);
  // A program that runs is not written over.
  renameSync(made, join(output, file));
  renameSync(join(work, 'facts.json'), join(output, `${name}.json`));
  const { stdout } = await execute(isHost ? 'size' : 'arm-none-eabi-size', [join(output, file)]);
  return stdout.trim().split('\n').at(-1)!.trim().split(/\s+/).slice(0, 3).join(' ');
}

function compilerOf({ core }: Board): string {
  return core === 'host' ? 'cc' : 'arm-none-eabi-gcc';
}

async function isInstalled(command: string): Promise<boolean> {
  return execute(command, ['--version']).then(
    () => true,
    () => false,
  );
}

const { values, positionals } = parseArgs({ allowPositionals: true, options: { check: { type: 'boolean' } } });
const folder = join(root, 'configs', 'boards');
const names = readdirSync(folder).map((file) => file.replace(/\.toml$/, ''));
const unknown = positionals.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  process.stderr.write(`firmware: there is no board ${unknown.join(', ')}; there are ${names.join(', ')}\n`);
  process.exit(2);
}
for (const name of names.filter((name) => positionals.length === 0 || positionals.includes(name))) {
  const board = parse(readFileSync(join(folder, `${name}.toml`), 'utf8')) as unknown as Board;
  const compiler = compilerOf(board);
  if (!(await isInstalled(compiler))) {
    process.stderr.write(`firmware: ${name} is left out: ${compiler} is not installed\n`);
    if (values.check === true) process.exitCode = 1;
    continue;
  }
  const sizes = await build(name, board);
  if (sizes !== null) process.stderr.write(`firmware: ${name}: text, data, bss: ${sizes}\n`);
}
