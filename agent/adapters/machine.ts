import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { availableParallelism, cpus } from 'node:os';
import { addonPath } from '../../native/index.js';
import type { TargetIdentity } from '../ports.js';

/** Vector extensions that change which kernels a runtime picks, as Linux names them on x86 and Arm. */
const relevantFeatures = [
  'avx',
  'avx2',
  'fma',
  'avx512f',
  'avx512_vnni',
  'avx_vnni',
  'amx_int8',
  'asimd',
  'asimddp',
  'i8mm',
  'sve',
  'bf16',
];

/** Version of the code that times operators in ONNX Runtime: part of the identity, so that a change of method never mixes with old rows. */
const ortMethodVersion = 4;

/** The identity of this machine as target `ort`; see `identifyMachine`. */
export function identifyOrt(threads: number, energyMeter: string | null): Promise<TargetIdentity> {
  return identifyMachine('ort', threads, ortMethodVersion, energyMeter);
}

/** Likewise, of the code that times operators in our own engine. */
const nativeMethodVersion = 2;

/**
 * The identity of this machine as target `native`; see `identifyMachine`. Measurements are those of one build of the engine: another has
 * other kernels.
 */
export async function identifyNative(threads: number): Promise<TargetIdentity> {
  const digest = createHash('sha256')
    .update(await readFile(addonPath()))
    .digest('hex');
  const identity = await identifyMachine('native', threads, nativeMethodVersion, null);
  return { ...identity, runtime: `engine ${digest.slice(0, 16)}, method ${nativeMethodVersion}` };
}

/**
 * The identity of this machine as a measuring target; the one place where it is put together.
 *
 * @param energyMeter name of the meter that rows' energy is read from
 */
export async function identifyMachine(
  kind: string,
  threads: number,
  methodVersion: number,
  energyMeter: string | null,
): Promise<TargetIdentity> {
  const cpuInfo = await text('/proc/cpuinfo');
  const flags = new Set((/^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuInfo)?.[1] ?? '').split(/\s+/));
  const { version } = createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string };
  return {
    kind,
    processor: await processorName(cpuInfo),
    architecture: process.arch,
    cores: availableParallelism(),
    threads,
    governor: (await text('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor')).trim() || 'unknown',
    powerMode: await powerMode(),
    runtime: `onnxruntime ${version}, method ${methodVersion}`,
    features: relevantFeatures.filter((feature) => flags.has(feature)),
    energyMeter,
  };
}

/**
 * Whether ONNX Runtime's 8-bit kernels sum pairs of products in saturating 16 bits here, as they do on x86 without VNNI: wrong integers,
 * unless weights are kept small.
 */
export function saturatesInt8({ architecture, features }: Pick<TargetIdentity, 'architecture' | 'features'>): boolean {
  return architecture === 'x64' && !features.some((feature) => feature.endsWith('_vnni'));
}

async function processorName(cpuInfo: string): Promise<string> {
  // Boards with a device tree name themselves better than their CPU part numbers do.
  const board = (await text('/proc/device-tree/model')).replaceAll('\0', '').trim();
  const part = /^CPU part\s*:\s*(\S+)/m.exec(cpuInfo)?.[1];
  const cpu = cpus()[0]?.model?.trim() || (part === undefined ? 'unknown' : `CPU part ${part}`);
  const family = /^cpu family\s*:\s*(\d+)/m.exec(cpuInfo)?.[1];
  const model = /^model\s*:\s*(\d+)/m.exec(cpuInfo)?.[1];
  const stepping = family === undefined ? '' : ` family ${family} model ${model}`;
  return board === '' ? `${cpu}${stepping}` : `${board}, ${cpu}`;
}

/** Jetson power mode, as nvpmodel last stored it. */
async function powerMode(): Promise<string> {
  const status = (await text('/var/lib/nvpmodel/status')).trim();
  return status === '' ? 'unknown' : status;
}

async function text(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}
