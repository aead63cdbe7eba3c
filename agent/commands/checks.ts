/** What the daemon needs, looked at one by one: no check fails, none waits long, none depends on another. */
import { execFile } from 'node:child_process';
import { access, constants, readdir, readFile, stat, statfs, unlink, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { AgentSettings } from '../../configs/contracts/agent-settings.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { blobManifestPath } from '../../configs/contracts/release.js';
import { formatBytes } from '../terminal.js';
import type { OpenedDaemon } from '../wire-daemon.js';

/** What came of a check. `warning`: work goes on, or can go on later; `failed`: it cannot, until somebody does something. */
export interface Check {
  readonly name: string;
  readonly status: 'ok' | 'warning' | 'failed';
  /** A sentence for people. */
  readonly message: string;
  /** What to do about it; absent where all is well. */
  readonly hint?: string;
}

/** What the daemon would run with. */
export interface DaemonPlace {
  readonly settings: AgentSettings;
  readonly stateFolder: string;
  readonly socketPath: string;
}

type GateView = Awaited<ReturnType<OpenedDaemon['gates']>>[number];

/** What others may take to answer. */
const networkMs = 3000;
/** A small board may take long to load a library for the first time. */
const loadMs = 30_000;
/** No clock that is right says anything before this program was written. */
const earliest = Date.UTC(2026, 0, 1);
/** Clocks that differ by more than this are told. */
const skewMs = 60_000;
/** Longest path of a Unix socket. */
const socketPathBytes = 107;
/** Nothing has this digest: asking for it shows whether the token is taken. */
const noBlob = '0'.repeat(64);

/** Every check but that of the settings themselves; side by side. */
export async function daemonChecks(place: DaemonPlace): Promise<readonly Check[]> {
  const named: readonly (readonly [string, () => Promise<Check | readonly Check[]>])[] = [
    ['state', () => checkState(place)],
    ['space', () => checkSpace(place)],
    ['console', () => checkConsole(place)],
    ['broker', () => checkBroker(place)],
    ['runtimes', () => checkRuntimes()],
    ['socket', () => checkSocket(place)],
    ['gates', () => checkGates(place)],
    ['serial', () => checkSerial()],
    ['samples', () => checkSamples(place)],
  ];
  const results = await Promise.all(
    named.map(([name, check]) =>
      check().catch((error: unknown) =>
        bad('failed', name, error instanceof Error ? error.message : String(error), hintOf(error)),
      ),
    ),
  );
  return results.flat();
}

function ok(name: string, message: string): Check {
  return { name, status: 'ok', message };
}

function bad(status: 'warning' | 'failed', name: string, message: string, hint: string): Check {
  return { name, status, message, hint };
}

function hintOf(error: unknown): string {
  return error instanceof EdgeError ? error.hint : 'See the message.';
}

async function checkState({ stateFolder }: DaemonPlace): Promise<Check> {
  const name = 'state';
  const parent = await existingParent(stateFolder);
  const hint = 'Set state.folder, or let the user of the daemon write there.';
  const isFolder = (await stat(parent)).isDirectory();
  if (parent !== stateFolder) {
    if (isFolder && (await isAllowed(parent, constants.W_OK)))
      return ok(name, `${stateFolder} is not there yet, and can be made`);
    return bad('failed', name, `${stateFolder} is not there, and cannot be made in ${parent}`, hint);
  }
  if (!isFolder) return bad('failed', name, `${stateFolder} is no folder`, hint);
  const probe = join(stateFolder, `.doctor-${process.pid}`);
  try {
    await writeFile(probe, 'x', { flush: true });
    await unlink(probe);
    return ok(name, `${stateFolder} can be written`);
  } catch (error) {
    await unlink(probe).catch(() => {});
    return bad('failed', name, `${stateFolder} cannot be written: ${(error as Error).message}`, hint);
  }
}

async function checkSpace({ stateFolder, settings }: DaemonPlace): Promise<Check> {
  const { reserveBytes } = settings.limits;
  const { bavail, bsize } = await statfs(await existingParent(stateFolder));
  const free = bavail * bsize;
  const message = `${formatBytes(free)} are free, ${formatBytes(reserveBytes)} of which stay free (limits.reserveBytes)`;
  if (free > reserveBytes) return ok('space', message);
  return bad('failed', 'space', message, 'Free some space, or lower limits.reserveBytes: nothing is downloaded.');
}

/** Two checks: whether the console answers, and what its clock says of ours. */
async function checkConsole({ settings }: DaemonPlace): Promise<readonly Check[]> {
  const { url, tokenFile } = settings.console;
  const token = await secretOf(tokenFile, 'console', 'console.tokenFile');
  if (token !== null && typeof token === 'object') return [token, clock(null)];
  const headers: Record<string, string> = token === null ? {} : { authorization: `Bearer ${token}` };
  let response: Response;
  try {
    const signal = AbortSignal.timeout(networkMs);
    response = await fetch(new URL(blobManifestPath(noBlob), url), { headers, redirect: 'manual', signal });
    await response.body?.cancel();
  } catch (error) {
    const inner = (error as { cause?: unknown }).cause;
    const why = (inner instanceof Error ? inner : (error as Error)).message || 'it does not answer';
    const hint = 'Check console.url, and that "fleet serve" runs there. The device works on without it.';
    return [bad('warning', 'console', `${url} cannot be reached: ${why}`, hint), clock(null)];
  }
  const told = Date.parse(response.headers.get('date') ?? '');
  const skew = clock(Number.isNaN(told) ? null : Date.now() - told);
  const { status } = response;
  if (status === 404) return [ok('console', `${url} answers`), skew];
  if (status === 401 || status === 403) {
    const what = token === null ? 'asks for a token' : 'refuses the token';
    return [bad('failed', 'console', `${url} ${what}`, 'Put the token of the console into console.tokenFile.'), skew];
  }
  const message = `${url} answers with status ${status}, which a console would not`;
  return [bad('warning', 'console', message, 'Check console.url.'), skew];
}

/** @param aheadMs of the console's clock; null where that is not known */
function clock(aheadMs: number | null): Check {
  const now = new Date().toISOString();
  const hint = 'Set the clock, or let it be set (timedatectl set-ntp true): certificates and times of reports need it.';
  if (Date.now() < earliest) return bad('warning', 'clock', `it says ${now}, which cannot be`, hint);
  if (aheadMs === null) return ok('clock', `it says ${now}; there is no console to compare it with`);
  if (Math.abs(aheadMs) <= skewMs) return ok('clock', `it says ${now}, as the console's does`);
  const seconds = Math.round(Math.abs(aheadMs) / 1000);
  return bad('warning', 'clock', `it is ${seconds} s ${aheadMs > 0 ? 'ahead of' : 'behind'} the console's`, hint);
}

async function checkBroker({ settings }: DaemonPlace): Promise<Check> {
  const { url, username, passwordFile } = settings.mqtt;
  const password = await secretOf(passwordFile, 'broker', 'mqtt.passwordFile');
  if (password !== null && typeof password === 'object') return password;
  const { probeBroker } = await import('../adapters/broker-probe.js');
  const clientId = `quantd-doctor-${process.pid}`;
  const answer = await probeBroker({ url, username, password, clientId, limitMs: networkMs });
  if (answer === 'connected') return ok('broker', `${url} lets this device in`);
  if (answer.isRefused) {
    const hint = 'Check mqtt.username and mqtt.passwordFile.';
    return bad('failed', 'broker', `${url} refuses the connection: ${answer.why}`, hint);
  }
  const hint = 'Check mqtt.url, and that the broker runs there. The device works on without it.';
  return bad('warning', 'broker', `${url} cannot be reached: ${answer.why}`, hint);
}

/** Content of a file that holds a secret, null where none is named, or what is wrong with it. */
async function secretOf(path: string, name: string, setting: string): Promise<string | null | Check> {
  if (path === '') return null;
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (error) {
    const hint = 'Check that the file is there and that the user of the daemon may read it.';
    return bad('failed', name, `${setting} cannot be read: ${(error as Error).message}`, hint);
  }
}

/** In processes of their own: a library that does not fit this machine may end the one that loads it. */
async function checkRuntimes(): Promise<readonly Check[]> {
  const resolve = createRequire(import.meta.url).resolve;
  const native = fileURLToPath(new URL('../../../native', import.meta.url));
  const programs: readonly (readonly [string, string, () => string])[] = [
    [
      'onnxruntime',
      'models can be run',
      () => `require(${JSON.stringify(resolve('onnxruntime-node'))}).InferenceSession.create`,
    ],
    [
      'sqlite',
      'state can be kept',
      () => `new (require(${JSON.stringify(resolve('better-sqlite3'))}))(':memory:').close()`,
    ],
    [
      'addon',
      'a service manager can be told that the daemon lives',
      () => `require(${JSON.stringify(resolve('node-gyp-build'))})(${JSON.stringify(native)})`,
    ],
  ];
  return Promise.all(
    programs.map(async ([name, message, program]) => {
      let why: string | null;
      try {
        why = await loads(program());
      } catch (error) {
        why = (error as Error).message.split('\n')[0]!;
      }
      if (why === null) return ok(name, message);
      const hint = 'Install again (npm ci) on this very machine; the versions of glibc and Node above must fit.';
      return bad('failed', name, `it cannot be loaded: ${why}`, hint);
    }),
  );
}

/** Null where a program ends in order, else the line that says why not. */
function loads(program: string): Promise<string | null> {
  return new Promise((resolve) => {
    execFile(process.execPath, ['-e', program], { timeout: loadMs }, (error, _stdout, stderr) => {
      if (error === null) return resolve(null);
      const line = /^(?:\w*Error: .*|.*: version .* not found.*)$/m.exec(stderr)?.[0];
      resolve(line ?? (error.signal == null ? `status ${error.code}` : `it was ended by ${error.signal}`));
    });
  });
}

async function checkSocket({ socketPath }: DaemonPlace): Promise<Check> {
  const name = 'socket';
  if (Buffer.byteLength(socketPath) > socketPathBytes) {
    const message = `the path of the socket is longer than ${socketPathBytes} bytes: ${socketPath}`;
    return bad('failed', name, message, 'Set local.socket to a shorter path.');
  }
  const answer = await askSocket<{ ready: boolean; why: string | null }>(socketPath, '/readyz');
  if (typeof answer === 'object') {
    const { ready, why } = answer;
    if (ready) return ok(name, `the daemon answers on ${socketPath}, and is ready`);
    return bad('warning', name, `the daemon answers on ${socketPath}: ${why}`, 'See "fleet device" for what it does.');
  }
  if (answer === 'ENOENT' || answer === 'ECONNREFUSED') {
    const hint = 'Start it: systemctl start quantd, or quantd run.';
    return bad('warning', name, `no daemon runs with ${socketPath}`, hint);
  }
  const hint = 'Add this user to the group of the daemon, and log in again.';
  return bad(
    'failed',
    name,
    `${socketPath} cannot be used: ${answer}`,
    answer === 'EACCES' ? hint : 'See the journal.',
  );
}

/** One check a gate, as the running daemon sees it: no second one is opened beside it. */
async function checkGates({ settings, socketPath }: DaemonPlace): Promise<readonly Check[]> {
  const kinds = Object.keys(settings.gates).filter((key) => key !== 'openSeconds');
  if (kinds.length === 0) return [ok('gates', 'none is configured: models change at any time')];
  const status = await askSocket<{ gates?: readonly GateView[] }>(socketPath, '/v1/status');
  if (typeof status === 'string' || status.gates === undefined) {
    return [ok('gates', `${kinds.join(', ')} are configured; only the running daemon can tell how they stand`)];
  }
  return status.gates.map(({ gate, isOpen, reason, detail, since, until, holds }) => {
    const name = `gate ${gate}`;
    const added = detail === null ? '' : ` (${detail})`;
    if (isOpen === true) return ok(name, `open since ${since}: ${reason}${added}`);
    const word = isOpen === null ? 'cannot be read' : 'closed';
    const message = `${word} since ${since}: ${reason}${added}${until === null ? '' : `, until ${until}`}`;
    const held = holds === 'work' && isOpen === false ? 'Nothing is measured or quantized' : 'No model changes';
    return bad('warning', name, message, `${held} meanwhile. Settings: [gates.${gate}].`);
  });
}

/** What an address of the local socket answers as JSON, or why it does not. */
function askSocket<Answer extends object>(socketPath: string, path: string): Promise<Answer | string> {
  return new Promise((resolve) => {
    const asked = request({ socketPath, path, timeout: networkMs }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece: string) => {
        text += piece;
      });
      response.on('error', (error) => resolve(error.message));
      response.on('end', () => {
        try {
          resolve(JSON.parse(text) as Answer);
        } catch {
          resolve('something else answers there');
        }
      });
    });
    asked.on('timeout', () => asked.destroy(new Error(`no answer within ${networkMs / 1000} s`)));
    asked.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    asked.end();
  });
}

/** Serial adapters by their stable names, and those that have none. */
export async function serialPorts(root = '/dev'): Promise<string[]> {
  const byId = join(root, 'serial', 'by-id');
  const names = (await readdir(byId).catch(() => [])).map((name) => join(byId, name)).sort();
  const plain = (await readdir(root).catch(() => [])).filter((name) => /^tty(ACM|USB)\d+$/.test(name)).sort();
  const known = new Set(await Promise.all(names.map((path) => identityOf(path))));
  const others: string[] = [];
  for (const name of plain) if (!known.has(await identityOf(join(root, name)))) others.push(join(root, name));
  return [...names, ...others];
}

async function identityOf(path: string): Promise<string> {
  return stat(path).then(
    ({ dev, ino }) => `${dev}:${ino}`,
    () => path,
  );
}

async function checkSerial(): Promise<Check> {
  const ports = await serialPorts();
  if (ports.length === 0) return ok('serial', 'no serial adapter is plugged in');
  const allowed = await Promise.all(ports.map((path) => isAllowed(path, constants.R_OK | constants.W_OK)));
  const closed = ports.filter((_, index) => !allowed[index]);
  if (closed.length === 0) return ok('serial', `${ports.length} can be used`);
  const hint = 'Add the user of the daemon to the group dialout.';
  return bad('warning', 'serial', `${closed.join(', ')} may not be used by this user`, hint);
}

async function checkSamples({ settings }: DaemonPlace): Promise<Check> {
  const { folder } = settings.samples;
  if (folder === '') return ok('samples', 'frames that applications hand over, else synthetic ones');
  const names = await readdir(folder).catch(() => null);
  const isSet = names?.some((name) => /^(calibration|test)(\.npy)?$/.test(name));
  if (isSet) return ok('samples', `${folder} is a sample set`);
  const message = names === null ? `${folder} cannot be read` : `${folder} is no sample set`;
  return bad('failed', 'samples', message, 'Set samples.folder to a set as agent/README.md has it, or to nothing.');
}

async function isAllowed(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}

/** The nearest of a folder and its parents that is there. */
async function existingParent(path: string): Promise<string> {
  const isThere = await isAllowed(path, constants.F_OK);
  return isThere || dirname(path) === path ? path : existingParent(dirname(path));
}
