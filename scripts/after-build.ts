/**
 * What `tsc` leaves to be done in `dist/`: outputs of deleted sources go, the web console is bundled, the commands become executable, and
 * `npx quantd` and `npx fleet` work in a checkout (npm links the commands of dependencies, never the root package's own).
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildWeb } from './web.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const dist = join(root, 'dist');

function removeStaleOutputs(): void {
  for (const name of readdirSync(dist, { recursive: true, encoding: 'utf8' })) {
    if (!/\.js(\.map)?$/.test(name)) continue;
    if (!existsSync(join(root, name.replace(/\.js(\.map)?$/, '.ts')))) rmSync(join(dist, name));
  }
}

function linkCommand(name: string, main: string): void {
  chmodSync(main, 0o755);
  const modules = join(root, 'node_modules');
  if (!existsSync(modules)) return;
  const link = join(modules, '.bin', name);
  mkdirSync(dirname(link), { recursive: true });
  rmSync(link, { force: true });
  symlinkSync(relative(dirname(link), main), link);
}

removeStaleOutputs();
await buildWeb();
linkCommand('quantd', join(dist, 'agent', 'main.js'));
linkCommand('fleet', join(dist, 'fleet-console', 'main.js'));
