/** The dependency rules of the house, checked on the real sources. Every file belongs to one zone; a new kind of file is a new row. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Import, type Source, scan } from './support/source-scan.js';

const root = fileURLToPath(new URL('../../', import.meta.url));

interface Zone {
  readonly holds: RegExp;
  /** Zones whose values it may import. Its own only where it is named. */
  readonly values: readonly string[];
  /** Zones of which it may import types. */
  readonly types: readonly string[];
  /** npm packages and Node modules, `node:*` for all of these. */
  readonly packages: readonly string[];
  /** Names of the outside world that its code must not refer to. */
  readonly forbidden: RegExp;
}

/** Time, chance, the machine: everything that `support/source-scan.ts` watches except arithmetic. */
const everything = /^(?!Math\.(?!random$))/;
/** The environment and the command line, whole or in part; a bare `process` could be taken apart for them. */
const settings = /^(process(\.(env|argv))?|globalThis|global|eval|Function)$/;
const settingsAndOutput = new RegExp(`${settings.source}|^(process\\.(stdout|stderr|exit|exitCode)|console.*)$`);

const zones: Readonly<Record<string, Zone>> = {
  contracts: {
    holds: /^configs\/contracts\//,
    values: ['contracts'],
    types: [],
    packages: ['@sinclair/typebox'],
    forbidden: everything,
  },
  settings: {
    holds: /^configs\/settings\.ts$/,
    values: ['contracts'],
    types: [],
    packages: ['@sinclair/typebox', 'smol-toml'],
    forbidden: everything,
  },
  addon: {
    holds: /^native\//,
    values: ['addon'],
    types: ['contracts'],
    // It loads the compiled addon by the library that finds it.
    packages: ['node:module', 'node:path', 'node:url'],
    forbidden: settings,
  },
  bridge: {
    holds: /^firmware-bridge\//,
    values: ['bridge', 'contracts'],
    types: [],
    // npm packages have their owners below.
    packages: ['node:*'],
    forbidden: settingsAndOutput,
  },
  core: {
    holds: /^agent\/core\//,
    values: ['core', 'contracts'],
    types: [],
    packages: ['protobufjs'],
    forbidden: everything,
  },
  ports: { holds: /^agent\/ports\.ts$/, values: [], types: ['core', 'contracts'], packages: [], forbidden: everything },
  // What the daemon makes and hears of it is described by the steps' own types.
  devicePorts: {
    holds: /^agent\/device-ports\.ts$/,
    values: [],
    types: ['core', 'contracts', 'ports', 'steps'],
    packages: [],
    forbidden: everything,
  },
  digest: { holds: /^agent\/digest\.ts$/, values: [], types: [], packages: ['node:crypto'], forbidden: everything },
  steps: {
    holds: /^agent\/(steps\/.*|pipeline|report)\.ts$/,
    values: ['steps', 'core', 'contracts', 'digest'],
    types: ['ports'],
    packages: [],
    forbidden: everything,
  },
  daemon: {
    holds: /^agent\/daemon\//,
    values: ['daemon', 'core', 'contracts', 'digest'],
    types: ['ports', 'devicePorts', 'steps'],
    packages: [],
    forbidden: everything,
  },
  adapters: {
    holds: /^agent\/adapters\//,
    values: ['core', 'contracts'],
    types: ['ports', 'devicePorts', 'steps'],
    // npm packages have their owners below.
    packages: ['node:*'],
    forbidden: settingsAndOutput,
  },
  jobs: {
    holds: /^agent\/jobs\//,
    values: ['jobs', 'steps', 'adapters', 'core', 'contracts', 'digest'],
    types: ['ports'],
    packages: ['node:*'],
    forbidden: settingsAndOutput,
  },
  worker: {
    holds: /^agent\/worker\.ts$/,
    values: ['jobs', 'adapters', 'core', 'contracts'],
    types: ['steps', 'ports'],
    packages: ['node:*'],
    forbidden: settings,
  },
  runner: {
    holds: /^agent\/(mcu-)?runner\.ts$/,
    values: ['adapters', 'core', 'contracts'],
    types: ['ports', 'devicePorts'],
    packages: ['node:*'],
    forbidden: settings,
  },
  wireDaemon: {
    holds: /^agent\/wire-(daemon|gates|mcus)\.ts$/,
    values: ['wireDaemon', 'adapters', 'daemon', 'core', 'contracts', 'digest', 'steps', 'runWorker'],
    types: ['ports', 'devicePorts'],
    packages: ['node:*'],
    forbidden: settings,
  },
  // From here up to main, native libraries must not be loaded: jobs are known by their types only.
  runWorker: {
    holds: /^agent\/run-worker\.ts$/,
    values: ['contracts', 'worker'],
    types: ['jobs', 'steps'],
    packages: ['node:*'],
    forbidden: settingsAndOutput,
  },
  terminal: {
    holds: /^agent\/terminal\.ts$/,
    values: ['core', 'contracts'],
    types: [],
    packages: ['cli-progress'],
    forbidden: settings,
  },
  commands: {
    holds: /^agent\/commands\//,
    values: ['commands', 'runWorker', 'terminal', 'core', 'contracts', 'settings'],
    types: ['jobs', 'steps', 'ports', 'wireDaemon'],
    packages: ['commander', 'node:*'],
    forbidden: settings,
  },
  main: {
    holds: /^agent\/main\.ts$/,
    values: ['commands', 'terminal', 'contracts', 'wireDaemon'],
    types: [],
    packages: ['commander', 'node:*'],
    forbidden: /^(eval|Function)$/,
  },
  // The console knows nothing of the agent but its pure core.
  selector: {
    holds: /^fleet-console\/(selector|device-state)\.ts$/,
    values: ['contracts'],
    types: [],
    packages: [],
    forbidden: everything,
  },
  wishes: {
    holds: /^fleet-console\/server\/desired\.ts$/,
    values: ['selector', 'contracts'],
    types: [],
    packages: [],
    forbidden: everything,
  },
  rollout: {
    holds: /^fleet-console\/(rollout\.ts|rollout\/.*)$/,
    values: ['rollout', 'selector', 'contracts'],
    types: [],
    packages: [],
    forbidden: everything,
  },
  consoleServer: {
    holds: /^fleet-console\/server\//,
    values: ['consoleServer', 'selector', 'wishes', 'rollout', 'core', 'contracts'],
    types: [],
    // npm packages have their owners below.
    packages: ['node:*'],
    forbidden: settingsAndOutput,
  },
  consoleClient: {
    holds: /^fleet-console\/client\.ts$/,
    values: ['contracts'],
    types: [],
    packages: ['node:*'],
    forbidden: settingsAndOutput,
  },
  consoleCommands: {
    holds: /^fleet-console\/commands\//,
    values: ['consoleCommands', 'consoleClient', 'selector', 'core', 'contracts', 'settings'],
    types: ['consoleServer', 'wishes'],
    packages: ['commander', 'node:*'],
    forbidden: settings,
  },
  // It talks HTTP only: of the server it knows the types of what that answers.
  consoleWeb: {
    holds: /^fleet-console\/web\//,
    values: ['consoleWeb'],
    types: ['contracts', 'selector', 'wishes', 'consoleServer'],
    packages: ['preact', 'uplot'],
    forbidden: settings,
  },
  consoleMain: {
    holds: /^fleet-console\/main\.ts$/,
    values: ['consoleCommands', 'consoleServer', 'contracts'],
    types: [],
    packages: ['commander', 'node:*'],
    forbidden: /^(eval|Function)$/,
  },
};

/** npm packages of adapters, of the bridge and of the console's server, with the files whose one responsibility needs them. */
const packageOwners: Readonly<Record<string, readonly string[]>> = {
  '@fastify/swagger': ['api'],
  '@sinclair/typebox': ['api', 'rollout-api', 'tables-api', 'people-api', 'audit-api', 'view-api'],
  aedes: ['broker'],
  'better-sqlite3': ['sqlite-store', 'sqlite-key-values', 'sqlite-outbox', 'database'],
  cookie: ['auth'],
  fastify: [
    'api',
    'rollout-api',
    'tables-api',
    'people-api',
    'audit-api',
    'access',
    'problem',
    'stream',
    'view-api',
    'web',
  ],
  mqtt: ['broker-probe', 'fleet-link', 'link'],
  pino: ['journal-log'],
  'prom-client': ['metrics'],
  highs: ['highs-worker', 'table-worker'],
  'onnxruntime-node': ['ort-runtime', 'ort-target', 'ort-profile', 'speed-reference'],
  serialport: ['serial'],
  sharp: ['samples'],
};

/** Imports that no zone allows but that have a reason: importer -> imported. */
const helpers: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'agent/adapters/ort-target.ts': {
    'agent/adapters/compare-models.ts': 'whole models are compared alike on every target of the host',
    'agent/adapters/host-runtime.ts': 'models to time are opened in one place',
    'agent/adapters/machine.ts': 'the identity of a machine is put together in one place',
    'agent/adapters/measuring-lock.ts': 'one lock for every target that times anything',
    'agent/adapters/ort-profile.ts': 'its per-operator timings, apart for size',
  },
  'agent/adapters/native-target.ts': {
    'native/index.ts': 'the engine is what it times',
    'agent/adapters/compare-models.ts': 'whole models are compared alike on every target of the host',
    'agent/adapters/host-runtime.ts': 'images are opened, and faults told, in one place',
    'agent/adapters/machine.ts': 'the identity of a machine is put together in one place',
    'agent/adapters/measuring-lock.ts': 'one lock for every target that times anything',
    'agent/adapters/speed-reference.ts': 'one way to notice a throttled processor',
  },
  'agent/adapters/mcu-target.ts': {
    'firmware-bridge/mcu.ts': 'a microcontroller is what it times',
    'firmware-bridge/flash.ts': 'what it times has to be brought there',
    'native/index.ts': 'weights are packed here by the C that executes them there',
    'agent/adapters/measuring-lock.ts': 'one lock for every target that times anything',
    'agent/adapters/mcu-identity.ts': 'the identity of a board is put together in one place',
  },
  'agent/adapters/mcu-identity.ts': { 'firmware-bridge/mcu.ts': 'what a board says of itself, as types' },
  'agent/adapters/mcu-board.ts': {
    'firmware-bridge/mcu.ts': 'a microcontroller is what it keeps the line to',
    'firmware-bridge/flash.ts': 'what runs there has to be brought there',
    'firmware-bridge/link/firmware-process.ts': 'a board that is a process lives longer than a line to it',
    'agent/adapters/mcu-identity.ts': 'the identity of a board is put together in one place',
  },
  'agent/adapters/mcu-runners.ts': { 'agent/mcu-runner.ts': 'what goes over the channel to its process, as types' },
  'agent/adapters/artifact-runner.ts': {
    'agent/adapters/samples.ts': 'probes run on samples, and frames are decoded as they are',
  },
  'agent/adapters/host-runtime.ts': {
    'native/index.ts': 'the engine is one of the two that run artifacts',
    'agent/adapters/ort-runtime.ts': 'ONNX Runtime is the other',
  },
  'agent/adapters/compare-models.ts': {
    'agent/adapters/host-runtime.ts': 'artifacts of either form are opened in one place',
    'agent/adapters/speed-reference.ts': 'one way to notice a throttled processor',
  },
  'agent/adapters/machine.ts': { 'native/index.ts': 'which build of the engine there is belongs to the identity' },
  'agent/adapters/ort-profile.ts': {
    'agent/adapters/ort-runtime.ts': 'what is timed must be run with the options of what is deployed',
    'agent/adapters/speed-reference.ts': 'one way to notice a throttled processor',
  },
  'agent/adapters/speed-reference.ts': {
    'agent/adapters/ort-runtime.ts': 'its reference model runs with the options of what is timed',
  },
  'agent/adapters/artifact-store.ts': { 'agent/adapters/durable-files.ts': 'one way to make files durable' },
  'agent/adapters/model-cache.ts': { 'agent/adapters/durable-files.ts': 'one way to make files durable' },
  'agent/adapters/sample-keeper.ts': { 'agent/adapters/durable-files.ts': 'one way to make files durable' },
  'agent/adapters/mavlink-gate.ts': {
    'firmware-bridge/link/serial.ts': 'serial ports are opened in one place, loaded only where one is wanted',
  },
  'agent/adapters/native-rounder.ts': { 'native/index.ts': 'the addon is what rounds' },
  'agent/adapters/service-manager.ts': { 'native/index.ts': 'Node has no datagram sockets of its own' },
  'agent/adapters/runner-process.ts': { 'agent/runner.ts': 'what goes over the channel to its process, as types' },
  'agent/adapters/highs-solver.ts': { 'agent/adapters/highs-worker.ts': 'the thread in which it runs the library' },
  'agent/adapters/samples.ts': { 'agent/adapters/npy.ts': 'the file format, readable without its directory layout' },
  'agent/commands/doctor.ts': {
    'agent/adapters/machine.ts': 'looks at the machine, loads no runtime',
    'agent/adapters/power.ts': 'looks for energy meters, loads no runtime',
  },
  'agent/commands/lock.ts': {
    'agent/adapters/lock-file.ts': 'what the daemon reads is written in the same place',
  },
  'agent/commands/checks.ts': {
    'agent/adapters/broker-probe.ts': 'speaks MQTT, loaded only where it is wanted',
  },
};

function zoneOf(path: string): string | undefined {
  return Object.keys(zones).find((name) => zones[name]!.holds.test(path));
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

function mayImportPackage(source: Source, zone: Zone, specifier: string): boolean {
  if (specifier.startsWith('node:')) return zone.packages.includes(specifier) || zone.packages.includes('node:*');
  const name = packageOf(specifier);
  const folder =
    zone === zones.adapters
      ? 'agent/adapters'
      : zone === zones.consoleServer
        ? 'fleet-console/server'
        : zone === zones.bridge
          ? 'firmware-bridge/link'
          : null;
  const owners = folder === null ? [] : (packageOwners[name] ?? []);
  return zone.packages.includes(name) || owners.some((owner) => source.path === `${folder}/${owner}.ts`);
}

function mayImport(source: Source, zone: Zone, { target, isPackage, isTypeOnly }: Import): boolean {
  if (target === null) return false;
  if (isPackage) return mayImportPackage(source, zone, target);
  const imported = zoneOf(target);
  if (imported === undefined) return false;
  const allowed = isTypeOnly ? [...zone.values, ...zone.types] : zone.values;
  return allowed.includes(imported) || helpers[source.path]?.[target] !== undefined;
}

/** Every broken rule of a file, as sentences. */
function faultsOf(source: Source): string[] {
  const name = zoneOf(source.path);
  if (name === undefined) return [`${source.path} belongs to no zone`];
  const zone = zones[name]!;
  const imports = source.imports
    .filter((found) => !mayImport(source, zone, found))
    .map(
      ({ target, isTypeOnly }) =>
        `${source.path} imports ${isTypeOnly ? 'type ' : ''}${target ?? 'something computed'}`,
    );
  const globals = source.globals
    .filter((use) => zone.forbidden.test(use.name))
    .map((use) => `${source.path} uses ${use.name}`);
  return [...new Set([...imports, ...globals])];
}

/** Folders that hold nothing of ours; `.git` is a file in a worktree. */
const foreign = /^(node_modules|dist|build|\.git|\.tap|\.build-.*)$/;

function filesBelow(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    if (foreign.test(entry.name)) return [];
    if (entry.isDirectory()) return filesBelow(path);
    return entry.isFile() ? [path] : [];
  });
}

const tree = filesBelow('');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const product = tree
  .filter((path) => /^(agent|configs|firmware-bridge|native|fleet-console)\/.*\.tsx?$/.test(path))
  .map((path) => scan(path, read(path)));

t.test('every import and every use of the outside world is one that its zone allows', async (t) => {
  t.same(product.flatMap(faultsOf).sort(), []);
});

t.test('exceptions are used: an entry that no import needs is deleted', async (t) => {
  for (const [importer, imported] of Object.entries(helpers)) {
    const targets = product.find(({ path }) => path === importer)?.imports.map(({ target }) => target) ?? [];
    t.same(
      Object.keys(imported).filter((path) => !targets.includes(path)),
      [],
      importer,
    );
  }
});

t.test('the dependencies in package.json are those that the product imports', async (t) => {
  const { dependencies } = JSON.parse(read('package.json')) as { dependencies: Record<string, string> };
  // What the web console needs is bundled into it when it is built.
  const installed = product.filter(({ path }) => zoneOf(path) !== 'consoleWeb');
  const imported = installed.flatMap(({ imports }) =>
    imports.filter(({ isPackage }) => isPackage).map(({ target }) => target!),
  );
  const used = imported.filter((specifier) => !specifier.startsWith('node:')).map(packageOf);
  // Of the addon: one to compile it with, one that finds what was compiled.
  const ofAddon = ['node-addon-api', 'node-gyp-build'];
  t.same(Object.keys(dependencies).sort(), [...new Set([...used, ...ofAddon])].sort());
  t.same(
    Object.values(dependencies).filter((version) => !/^\d/.test(version)),
    [],
    'versions are exact',
  );
});

t.test('the rules can fail', async (t) => {
  const judge = (path: string, text: string) => faultsOf(scan(path, text));
  const expectFault = (path: string, text: string, fault: string) =>
    t.same(judge(path, text), [`${path} ${fault}`], `${path}: ${text}`);

  t.comment('core is pure');
  for (const text of [
    "import { readFile } from 'node:fs/promises';",
    "import 'node:fs';",
    "export * from 'node:fs';",
  ]) {
    expectFault('agent/core/a.ts', text, `imports ${/node:[a-z/]+/.exec(text)![0]}`);
  }
  expectFault('agent/core/a.ts', "const fs = await import('node:fs');", 'imports node:fs');
  expectFault('agent/core/a.ts', 'const it = await import(name);', 'imports something computed');
  expectFault('agent/core/a.ts', "let x: import('../ports.js').Feed;", 'imports type agent/ports.ts');
  expectFault('agent/core/a.ts', "import type { Feed } from '../ports.js';", 'imports type agent/ports.ts');
  expectFault('agent/core/a.ts', "import sharp from 'sharp';", 'imports sharp');
  expectFault(
    'agent/core/a.ts',
    "new Worker(new URL('../adapters/highs-worker.js', import.meta.url));",
    'imports agent/adapters/highs-worker.ts',
  );
  expectFault('agent/core/a.ts', 'export const at = () => new Date();', 'uses Date');
  expectFault('agent/core/a.ts', 'export const at = Date.now;', 'uses Date.now');
  expectFault('agent/core/a.ts', 'const x = Math.random();', 'uses Math.random');
  expectFault('agent/core/a.ts', "const x = Math['random']();", 'uses Math.random');
  expectFault('agent/core/a.ts', 'const { random } = Math;', 'uses Math');
  expectFault('agent/core/a.ts', 'const d = globalThis.Date;', 'uses globalThis.Date');
  expectFault('agent/core/a.ts', 'if (process.env.FAST) x();', 'uses process.env');
  expectFault('agent/core/a.ts', 'const f = { console };', 'uses console');
  expectFault('agent/core/a.ts', 'setTimeout(() => {}, 1);', 'uses setTimeout');
  expectFault('agent/core/a.ts', 'performance.now();', 'uses performance.now');
  expectFault('agent/core/a.ts', "await fetch('x');", 'uses fetch');

  t.comment('comments, strings, members and keys are not code that runs');
  t.same(
    judge(
      'agent/core/a.ts',
      "// new Date(), process.env\nconst s = 'Math.random()'; row.process; const k = { fetch: 1 }; Math.max(1, 2);",
    ),
    [],
  );
  t.same(
    judge(
      'agent/core/a.ts',
      "import type { Bits } from '../../configs/contracts/plan.js'; import { x } from './b.js';",
    ),
    [],
  );

  t.comment('the other zones');
  expectFault(
    'configs/contracts/a.ts',
    "import type { Model } from '../../agent/core/onnx/model.js';",
    'imports type agent/core/onnx/model.ts',
  );
  expectFault('configs/contracts/a.ts', "import { Ajv } from 'ajv';", 'imports ajv');
  expectFault('agent/ports.ts', "import { median } from './core/statistics.js';", 'imports agent/core/statistics.ts');
  expectFault(
    'agent/ports.ts',
    "import { type Model, encode } from './core/onnx/codec.js';",
    'imports agent/core/onnx/codec.ts',
  );
  t.same(judge('agent/ports.ts', "import { type Model, type Node } from './core/onnx/model.js';"), []);
  expectFault(
    'agent/steps/a.ts',
    "import { OrtTarget } from '../adapters/ort-target.js';",
    'imports agent/adapters/ort-target.ts',
  );
  expectFault('agent/steps/a.ts', "import { tmpdir } from 'node:os';", 'imports node:os');
  expectFault('agent/pipeline.ts', 'const started = Date.now();', 'uses Date.now');
  expectFault(
    'agent/adapters/samples.ts',
    "import { createSession } from './ort-runtime.js';",
    'imports agent/adapters/ort-runtime.ts',
  );
  expectFault('agent/adapters/samples.ts', "import Database from 'better-sqlite3';", 'imports better-sqlite3');
  expectFault('agent/adapters/samples.ts', "import { tune } from '../steps/tune.js';", 'imports agent/steps/tune.ts');
  expectFault('agent/adapters/samples.ts', 'const home = process.env.HOME;', 'uses process.env');
  expectFault('firmware-bridge/link/open.ts', "import { SerialPort } from 'serialport';", 'imports serialport');
  t.same(judge('firmware-bridge/link/serial.ts', "import { SerialPort } from 'serialport';"), []);
  expectFault(
    'firmware-bridge/mcu.ts',
    "import { median } from '../agent/core/statistics.js';",
    'imports agent/core/statistics.ts',
  );
  expectFault('agent/jobs/a.ts', 'const { env } = process;', 'uses process');
  expectFault('agent/jobs/a.ts', "console.log('x');", 'uses console.log');
  expectFault('agent/commands/a.ts', "import { runJob } from '../jobs/index.js';", 'imports agent/jobs/index.ts');
  expectFault('agent/commands/a.ts', 'process.argv.slice(2);', 'uses process.argv');
  expectFault(
    'agent/main.ts',
    "import { scan } from '../test/support/source-scan.js';",
    'imports test/support/source-scan.ts',
  );
  expectFault(
    'fleet-console/web/a.tsx',
    "import { parseSelector } from '../selector.js';",
    'imports fleet-console/selector.ts',
  );
  t.same(judge('fleet-console/web/a.tsx', "import type { Overview } from '../server/fleet-view.js';"), []);
  expectFault('fleet-console/server/a.ts', "import '../web/a.js';", 'imports fleet-console/web/a.ts');
  expectFault('agent/main.ts', "import './demo.js';", 'imports agent/demo.ts');
  t.same(judge('agent/newcomer.ts', ''), ['agent/newcomer.ts belongs to no zone']);
});

t.test('every exported declaration says in a doc comment what the caller may rely on', async (t) => {
  t.same(
    product.flatMap(({ path, undocumented }) => undocumented.map((name) => `${path} ${name}`)),
    [],
  );
});

t.test('a doc comment counts only directly above its declaration', async (t) => {
  const bare = (text: string) => scan('a.ts', text).undocumented;
  t.same(
    bare('/** The file. */\nimport "x";\nexport const a = 1;\n// no doc\nexport function b() {}\nexport class C {}'),
    ['a', 'b', 'C'],
  );
  t.same(bare('/** Stands alone. */\n\nexport const a = 1;'), ['a']);
  t.same(
    bare(
      '/** Says it. */\nexport const A = 1;\nexport type A = typeof A;\n/** And it. */\nexport async function b() {}',
    ),
    [],
  );
  t.same(bare('const hidden = 1;\nexport { hidden };\nexport * from "./b.js";'), []);
});

t.test('no source file is longer than 600 lines', async (t) => {
  const long = tree
    .filter((path) => /\.(ts|tsx|c|cc|h|js|mjs)$/.test(path))
    .map((path) => [path, read(path).split('\n').length - 1] as const)
    .filter(([, lines]) => lines > 600);
  t.same(long, []);
});

t.test('every top-level folder has a README', async (t) => {
  const folders = readdirSync(root).filter(
    (name) => !name.startsWith('.') && !foreign.test(name) && statSync(join(root, name)).isDirectory(),
  );
  t.same(
    folders.filter((name) => !existsSync(join(root, name, 'README.md'))),
    [],
  );
});

t.test('no file holds an absolute path of one machine', async (t) => {
  // Put together, so that this file does not find itself.
  const homes = ['home', 'root', 'Users', 'tmp', 'work', 'workspace', 'mnt', 'builds'].map((name) => `/${name}`);
  const path = new RegExp(`(?<![\\w.*/-])(${homes.join('|')})/\\w`);
  t.match(`see ${homes[0]}/someone/model.onnx`, path);
  t.notMatch('agent/home/x, https://host/mnt/x, ../home/x', path);
  const texts = tree.filter((file) => /\.(ts|c|cc|h|js|mjs|json|md|toml|yml|yaml|sh|py)$|\/run$|^\.[a-z]+$/.test(file));
  t.ok(texts.includes('.ci/run') && texts.includes('package.json'));
  t.same(
    texts.filter((file) => path.test(read(file))),
    [],
  );
});
