/**
 * `npm run soak [-- NAME...]`: the tests that a short slice of runs in CI, at length. Each ends with its own figures; the exit code is
 * 1 if any fails. Takes hours; give names to run some only.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Test files with what makes them long. */
const soaks: Readonly<
  Record<string, { readonly file: string; readonly environment: Readonly<Record<string, string>> }>
> = {
  kills: { file: 'agent/daemon/end-to-end.test.js', environment: { QUANTD_KILLS: '1000' } },
  'power-cuts': { file: 'agent/daemon/daemon.test.js', environment: { QUANTD_POWER_CUTS: '20000' } },
  kernels: { file: 'native/kernels.test.js', environment: { QUANTD_KERNEL_CASES: '1000000' } },
  'cortex-m': { file: 'native/cortex-m.test.js', environment: { QUANTD_KERNEL_CASES: '1000000' } },
  arm: { file: 'native/arm.test.js', environment: { QUANTD_KERNEL_CASES: '1000000' } },
  uploads: { file: 'firmware-bridge/kills.test.js', environment: { QUANTD_UPLOAD_KILLS: '500' } },
  requests: { file: 'firmware-bridge/hostile.test.js', environment: { QUANTD_HOSTILE_REQUESTS: '10000000' } },
  lines: { file: 'firmware-bridge/faults.test.js', environment: { QUANTD_LINE_ROUNDS: '20000' } },
  images: { file: 'native/image.test.js', environment: { QUANTD_IMAGE_MUTATIONS: '1000000' } },
  patches: { file: 'native/patches.test.js', environment: { QUANTD_PATCH_CASES: '20000' } },
  rollouts: { file: 'fleet-console/rollout.property.test.js', environment: { QUANTD_ROLLOUTS: '100000' } },
  'console-kills': { file: 'fleet-console/server/rollouts.test.js', environment: { QUANTD_CONSOLE_KILLS: '200' } },
  fleet: { file: 'fleet-console/server/load.test.js', environment: { QUANTD_FLEET_DEVICES: '2000' } },
};

const names = process.argv.slice(2);
const unknown = names.filter((name) => !(name in soaks));
if (unknown.length > 0) {
  process.stderr.write(`there is no ${unknown.join(', ')}; there are: ${Object.keys(soaks).join(', ')}\n`);
  process.exit(2);
}
for (const name of names.length > 0 ? names : Object.keys(soaks)) {
  const { file, environment } = soaks[name]!;
  process.stdout.write(`# ${name}\n`);
  const path = fileURLToPath(new URL(`../test/${file}`, import.meta.url));
  const child = spawn(process.execPath, ['--enable-source-maps', path], {
    env: { ...process.env, TAP_TIMEOUT: '86400', ...environment },
    stdio: 'inherit',
  });
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  if (code !== 0) process.exitCode = 1;
}
