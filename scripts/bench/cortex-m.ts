/**
 * Kernels for Cortex-M: instructions a multiply-accumulate on an emulated Cortex-M4 (exact, the same on every machine and in every run with
 * one compiler), everything of a layer included, and bytes of weights in flash and of scratch memory. Instructions are not cycles.
 */
import { execFileSync } from 'node:child_process';
import { compileForBoard, runOnBoard } from '../cortex-m.js';

/** What each layer and precision has to reach with its best kernel, and what would be more than expected: instructions a MAC. */
const floors: Readonly<Record<string, readonly [floor: number, ambitious: number]>> = {
  '3x3 16->16 W8A8': [1.1, 0.98],
  '3x3 32->32 W8A8': [0.98, 0.89],
  '3x3 64->64 W8A8': [0.93, 0.86],
  '1x1 64->64 W8A8': [1.05, 0.95],
  '3x3 16->16 W4A8': [1.2, 0.7],
  '3x3 32->32 W4A8': [1.03, 0.55],
  '3x3 64->64 W4A8': [0.95, 0.48],
  '1x1 64->64 W4A8': [1.15, 1.0],
  '3x3 16->16 W4A4': [0.65, 0.47],
  '3x3 32->32 W4A4': [0.52, 0.41],
  '3x3 64->64 W4A4': [0.48, 0.38],
  '1x1 64->64 W4A4': [0.85, 0.69],
  '3x3 16->16 W2A2': [0.46, 0.31],
  '3x3 32->32 W2A2': [0.35, 0.26],
  '3x3 64->64 W2A2': [0.32, 0.24],
  '1x1 64->64 W2A2': [0.68, 0.5],
};

/** One kernel on one layer at one precision. */
interface Row {
  readonly layer: string;
  readonly precision: string;
  readonly kernel: string;
  readonly instructions: number;
  readonly macs: number;
  readonly instructionsPerMac: number;
  readonly weightBytes: number;
  readonly scratchBytes: number;
}

/** All kernels on the layers of `native/test/count_kernels.c`; the models of other benchmarks are not used. */
export async function cortexMBench() {
  const board = 'netduinoplus2';
  const compiler = execFileSync('arm-none-eabi-gcc', ['-dumpfullversion'], { encoding: 'utf8' }).trim();
  const emulator = execFileSync('qemu-system-arm', ['--version'], { encoding: 'utf8' }).split('\n')[0]!;
  const sets = [];
  // Weights at their largest are the worst case of kernels whose sums have to be taken apart before they overflow.
  for (const weights of ['random', 'largest'] as const) {
    const flags = ['-O2', '-fdata-sections', ...(weights === 'largest' ? ['-DLARGEST_WEIGHTS'] : [])];
    const { code, output } = await runOnBoard(await compileForBoard('count_kernels', board, flags), board, []);
    if (code !== 0) throw new Error(output);
    const rows = output.split('\n').flatMap((line) => rowOf(line));
    const best = [...new Set(rows.map(({ layer, precision }) => `${layer} ${precision}`))].map((name) =>
      rows
        .filter((row) => `${row.layer} ${row.precision}` === name)
        .reduce((least, row) => (row.instructions < least.instructions ? row : least)),
    );
    print(`weights: ${weights}`);
    for (const row of rows) {
      const [floor, ambitious] = floors[`${row.layer} ${row.precision}`] ?? [];
      const beside =
        floor === undefined || !best.includes(row)
          ? ''
          : `floor ${floor.toFixed(2)} ${row.instructionsPerMac <= floor ? 'held' : 'MISSED'}, ambitious ${ambitious!.toFixed(2)}`;
      print(
        `${row.layer.padEnd(14)} ${row.precision}  ${row.kernel.padEnd(16)} ${row.instructionsPerMac.toFixed(3)} a MAC, ${row.instructions} in all, ` +
          `weights ${row.weightBytes} B, scratch ${row.scratchBytes} B  ${beside}`,
      );
    }
    sets.push({ weights, rows });
  }
  return { board, processor: 'cortex-m4', compiler: `arm-none-eabi-gcc ${compiler} -O2`, emulator, floors, sets };
}

function rowOf(line: string): Row[] {
  const [layer, precision, kernel, ...numbers] = line.split(',');
  if (numbers.length !== 4) return [];
  const [instructions, macs, weightBytes, scratchBytes] = numbers.map(Number) as [number, number, number, number];
  const instructionsPerMac = instructions / macs;
  return [
    {
      ...{ layer: layer!, precision: precision!, kernel: kernel! },
      ...{ instructions, macs, instructionsPerMac, weightBytes, scratchBytes },
    },
  ];
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
