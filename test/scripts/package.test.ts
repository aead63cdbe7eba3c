/** What is in the package that npm makes: all that an installation on another machine needs, and nothing of ours alone. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../../../', import.meta.url));

t.test(
  'a package holds every compiled file of the product and the sources that are compiled on installation',
  async (t) => {
    const { stdout } = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: root,
      encoding: 'utf8',
    });
    const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
    const packed = new Set(files.map(({ path }) => path));
    const isOfProduct = (path: string) => /^(agent|configs|firmware-bridge|fleet-console|native)\/.*\.js$/.test(path);
    const compiled = readdirSync(join(root, 'dist'), { recursive: true, encoding: 'utf8' }).filter(isOfProduct);
    t.ok(compiled.length > 50);
    t.same(
      compiled.filter((path) => !packed.has(`dist/${path}`)),
      [],
    );
    const sources = readdirSync(join(root, 'native'), { recursive: true, encoding: 'utf8' });
    const isBuiltFrom = (path: string) => !path.startsWith('build') && /\.(cc?|h|def|gypi?)$/.test(path);
    t.ok(sources.filter(isBuiltFrom).includes('binding.gyp'));
    t.same(
      sources.filter((path) => isBuiltFrom(path) && !packed.has(`native/${path}`)),
      [],
    );
    t.same(
      [...packed].filter((path) => /^(dist\/(test|scripts)|native\/build|test)\//.test(path)),
      [],
    );
    const { bin, scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      bin: Record<string, string>;
      scripts: Record<string, string>;
    };
    for (const path of Object.values(bin)) t.ok(packed.has(path), path);
    t.match(scripts.install, /native/, 'npm compiles the addon where the package is installed');
  },
);
