/** What the firmware is told of its boards, and what is made of it. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'smol-toml';
import t from 'tap';
import { firmwareFolder, readBuild } from '../../firmware-bridge/link/builds.js';
import { skipsQemu } from '../support/firmware.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const folder = join(root, 'configs', 'boards');

interface Region {
  readonly origin: number;
  readonly bytes: number;
}
interface Board {
  readonly core: string;
  readonly sources: readonly string[];
  readonly stackBytes: number;
  readonly chip: { readonly ramBytes: number; readonly flashBytes: number };
  readonly flash: Region;
  readonly ram: Region;
  readonly storage: { readonly origin: number; readonly sectorBytes: number; readonly slotBytes: number };
  readonly preloaded?: Region;
}

const boards = readdirSync(folder)
  .map(
    (file) => [file.replace('.toml', ''), parse(readFileSync(join(folder, file), 'utf8')) as unknown as Board] as const,
  )
  .filter(([, { core }]) => core !== 'host');

const end = ({ origin, bytes }: Region) => origin + bytes;
const overlap = (a: Region, b: Region) => a.origin < end(b) && b.origin < end(a);

for (const [name, { sources, stackBytes, chip, flash, ram, storage, preloaded }] of boards) {
  t.test(`${name}: memories are apart and are no larger than the chip's`, async (t) => {
    const { sectorBytes, slotBytes, origin } = storage;
    const slots = { origin, bytes: 2 * sectorBytes + 2 * slotBytes };
    const regions = { flash, ram, slots, ...(preloaded === undefined ? {} : { preloaded }) };
    const all = Object.entries(regions);
    for (const [one, a] of all)
      for (const [other, b] of all) if (one < other) t.notOk(overlap(a, b), `${one}, ${other}`);
    t.equal(slotBytes % sectorBytes, 0, 'slots are of whole sectors');
    t.equal(origin % sectorBytes, 0, 'and begin with one');
    t.ok(stackBytes >= 4096 && stackBytes % 32 === 0);
    const isRam = (region: Region) => Math.floor(region.origin / 2 ** 24) === Math.floor(ram.origin / 2 ** 24);
    const sum = (kept: Region[]) => kept.reduce((total, { bytes }) => total + bytes, 0);
    // What is preloaded into an emulator's further memory is no part of the chip's.
    t.ok(sum([ram, slots].filter(isRam)) <= chip.ramBytes, 'RAM');
    t.ok(sum([flash, slots].filter((region) => !isRam(region))) <= chip.flashBytes, 'flash');
    for (const source of sources) t.ok(existsSync(join(root, 'firmware-bridge', 'firmware', 'board', source)), source);
  });

  t.test(
    `${name}: the program starts with a stack at the end of RAM and runs in flash`,
    { skip: skipsQemu },
    async (t) => {
      const elf = readFileSync(join(firmwareFolder, readBuild(name).file));
      t.equal(elf.readUInt16LE(18), 40, 'for Arm');
      // Program headers: where each piece is stored, and its bytes.
      const pieces = Array.from({ length: elf.readUInt16LE(44) }, (_, index) => {
        const at = elf.readUInt32LE(28) + index * elf.readUInt16LE(42);
        return {
          offset: elf.readUInt32LE(at + 4),
          origin: elf.readUInt32LE(at + 12),
          bytes: elf.readUInt32LE(at + 16),
        };
      }).filter(({ bytes }) => bytes > 0);
      for (const piece of pieces)
        t.ok(piece.origin >= flash.origin && end(piece) <= end(flash), `a piece at ${piece.origin.toString(16)}`);
      const vectors = pieces.find(({ origin }) => origin === flash.origin)!.offset;
      t.equal(elf.readUInt32LE(vectors), end(ram));
      const reset = elf.readUInt32LE(vectors + 4);
      t.equal(reset % 2, 1, 'Thumb');
      t.ok(reset > flash.origin && reset < end(flash));
    },
  );
}
