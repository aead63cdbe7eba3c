/** The native addon. Everything is validated here, before it crosses; the addon trusts its arguments. */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

interface Addon {
  sendDatagram(path: string, text: string): number;
}

/** `native/` in the package, seen from `dist/native/`. */
const folder = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'native');
const load = createRequire(import.meta.url)('node-gyp-build') as (folder: string) => Addon;
let addon: Addon | null = null;

/**
 * Sends one datagram to a Unix socket; `@name` is in Linux's abstract namespace. Answers 0, or the system's error number.
 * Throws a TypeError for what is no path, and an Error where the addon was not built.
 */
export function sendDatagram(path: string, text: string): number {
  if (!/^[/@][^\0]*$/.test(path)) throw new TypeError('a socket path begins with / or @');
  addon ??= load(folder);
  return addon.sendDatagram(path, text);
}
