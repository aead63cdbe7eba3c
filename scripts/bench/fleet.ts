/** A simulated fleet under the console, with the console's own broker and with Mosquitto. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BrokerKind, type ExperimentResult, runExperiment } from '../fleet/experiment.js';

/** `QUANTD_FLEET`: pairs of a broker and a number of devices. */
const usual = 'embedded:2000,mosquitto:10000';
const connectMsPerDevice = 3;
const workMs = 3000;
const patienceMs = 600_000;

/** Runs the experiments that QUANTD_FLEET names; QUANTD_SEED repeats one. */
export async function fleetBench(): Promise<ExperimentResult[]> {
  const seed = Number(process.env.QUANTD_SEED ?? Date.now() % 2 ** 31);
  const results: ExperimentResult[] = [];
  for (const pair of (process.env.QUANTD_FLEET ?? usual).split(',')) {
    const [broker, count] = pair.split(':') as [BrokerKind, string];
    const devices = Number(count);
    const folder = mkdtempSync(join(tmpdir(), 'quantd-fleet-'));
    process.stdout.write(`# ${broker}, ${devices} devices, seed ${seed}\n`);
    try {
      const result = await runExperiment({
        broker,
        devices,
        seed,
        folder,
        workMs,
        connectMs: devices * connectMsPerDevice,
        hasRollout: broker === 'embedded',
        patienceMs,
        say: (text) => process.stdout.write(`${text}\n`),
      });
      const { acknowledged, results: stored, events, lost, doubled, unknown, current } = result;
      process.stdout.write(
        `${acknowledged} acknowledged; ${stored} results and ${events} events stored, ${lost} lost, ${doubled} doubled, ${unknown} unknown; ` +
          `${current} of ${devices} devices have their newest orders\n`,
      );
      if (lost + doubled + unknown > 0 || current < devices) process.exitCode = 1;
      results.push(result);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return results;
}
