/** Bundles the web console into `dist/fleet-console/web`: a page, a script and a style, whose names hold digests of their content. */
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('../../', import.meta.url));
const source = join(root, 'fleet-console', 'web');
const output = join(root, 'dist', 'fleet-console', 'web');

/** Builds it anew; nothing of an earlier build stays. Fails with esbuild's messages, which it prints. */
export async function buildWeb(): Promise<void> {
  rmSync(output, { recursive: true, force: true });
  mkdirSync(output, { recursive: true });
  const { metafile } = await build({
    entryPoints: [join(source, 'app.tsx'), join(source, 'app.css')],
    outdir: output,
    entryNames: '[name]-[hash]',
    bundle: true,
    minify: true,
    format: 'esm',
    target: ['chrome123', 'firefox120', 'safari17.5'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    metafile: true,
    legalComments: 'eof',
    logLevel: 'warning',
  });
  let page = readFileSync(join(source, 'index.html'), 'utf8');
  for (const path of Object.keys(metafile.outputs)) {
    const name = basename(path);
    page = page.replace(`/assets/${name.replace(/-[A-Z0-9]+\./, '.')}`, `/assets/${name}`);
  }
  writeFileSync(join(output, 'index.html'), page);
  copyFileSync(join(source, 'icon.svg'), join(output, 'icon.svg'));
}
