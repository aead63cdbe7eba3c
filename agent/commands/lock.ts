import type { Command } from 'commander';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { LockDocument } from '../../configs/contracts/lock.js';
import { type Lock, readLock, removeLock, writeLock } from '../adapters/lock-file.js';
import { printJson } from './common.js';
import { defaultConfigPath, loadAgentSettings } from './settings.js';

interface LockFlags {
  readonly config?: string;
  readonly json?: boolean;
  readonly reason?: string;
  readonly for?: string;
  readonly owner?: string;
  readonly force?: boolean;
}

const unitMs: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const longestMs = 365 * 86_400_000;

/** Adds `lock`, `lock status` and `unlock`: holds models back on this device, for a reason and for a time. */
export function registerLock(program: Command, environment: NodeJS.ProcessEnv): void {
  const common = (command: Command) =>
    command
      .option('--config <file>', `settings of the daemon (default: ${defaultConfigPath}, where there is one)`)
      .option('--json', 'print one JSON document on stdout and nothing else there');
  // Options that `lock status` has as well are read by whichever of the two comes first.
  const flagsOf = (command: Command) => command.optsWithGlobals<LockFlags>();
  const withOwner = (command: Command, verb: string) =>
    command
      .option('--owner <name>', 'who holds the lock (default: the user)')
      .option('--force', `${verb} the lock of another owner`);

  const lock = withOwner(common(program.command('lock')), 'take over')
    .description('keeps models from changing on this device for a while; see also: lock status, unlock')
    // Not required as far as the parser knows: it would ask it of the command below this one, too.
    .option('--reason <text>', 'why, for whoever wonders (required)')
    .option('--for <time>', 'for how long, such as 90s, 30m, 2h, 1d (default: gates.lock.lifetimeHours)')
    .addHelpText(
      'after',
      `
Needs a section [gates.lock] in the settings of the daemon, which names the file. Any program may write that file: JSON
{"owner", "reason", "until"}, or a line of text. What is being downloaded, measured or quantized goes on, unless the section says holds = "work".

Example:
  quantd lock --reason "spraying field 7" --for 2h`,
    );
  lock.action(async (_flags: LockFlags, command: Command) => {
    const flags = flagsOf(command);
    if (flags.reason === undefined || flags.reason.trim() === '') {
      throw new EdgeError('usage/invalid', '--reason is missing', {
        subject: '--reason',
        hint: 'Say why, in a few words: others will see it.',
      });
    }
    const { file, lifetimeMs } = await lockSettings(environment, flags.config);
    const owner = ownerOf(flags, environment);
    const found = await readLock(file, lifetimeMs);
    refuseOther(found, owner, flags, 'It is held for another');
    const until = new Date(Date.now() + (flags.for === undefined ? lifetimeMs : durationMs(flags.for))).toISOString();
    const document: LockDocument = { owner, reason: flags.reason.trim().slice(0, 1000), until };
    await writeLock(file, document, found !== null);
    if (flags.json) printJson({ file, lock: await readLock(file, lifetimeMs) });
    else process.stdout.write(`locked for ${owner} until ${until}: ${document.reason}\n`);
  });

  common(lock.command('status').description('says who holds the lock, why and until when')).action(
    async (_flags: LockFlags, command: Command) => {
      const flags = flagsOf(command);
      const { file, lifetimeMs } = await lockSettings(environment, flags.config);
      const found = await readLock(file, lifetimeMs);
      if (flags.json) printJson({ file, lock: found });
      else process.stdout.write(`${describe(found)}\n`);
    },
  );

  const unlock = withOwner(common(program.command('unlock')), 'remove').description('releases the lock of this device');
  unlock.action(async (_flags: LockFlags, command: Command) => {
    const flags = flagsOf(command);
    const { file, lifetimeMs } = await lockSettings(environment, flags.config);
    const found = await readLock(file, lifetimeMs);
    refuseOther(found, ownerOf(flags, environment), flags, 'It is not yours');
    await removeLock(file);
    if (flags.json) printJson({ file, lock: null });
    else process.stdout.write(found === null ? 'it was not locked\n' : `unlocked; it was ${describe(found)}\n`);
  });
}

/** Fails with `settings/invalid`, also where locks are not heeded. */
async function lockSettings(environment: NodeJS.ProcessEnv, config: string | undefined) {
  const { values } = await loadAgentSettings(environment, config);
  const { lock } = values.gates;
  if (lock !== undefined) return { file: lock.file, lifetimeMs: lock.lifetimeHours * 3_600_000 };
  throw new EdgeError('settings/invalid', 'the daemon of this device heeds no lock: it has no section [gates.lock]', {
    subject: 'gates.lock',
    hint: `Put [gates.lock] and file = "/var/lib/quantd/lock" into ${config ?? defaultConfigPath}, and restart the daemon.`,
  });
}

function ownerOf({ owner }: LockFlags, environment: NodeJS.ProcessEnv): string {
  const name = owner || environment.SUDO_USER || environment.USER || environment.LOGNAME || '';
  return name.trim().slice(0, 128) || 'unknown';
}

/** Fails with `lock/held`. */
function refuseOther(found: Lock | null, owner: string, { force }: LockFlags, what: string): void {
  if (found === null || found.state === 'expired' || force === true) return;
  // Whose a damaged one is, nobody knows.
  if (found.state === 'held' && found.owner === owner) return;
  throw new EdgeError('lock/held', `${what}: ${describe(found)}`, { subject: found.owner });
}

function describe(lock: Lock | null): string {
  if (lock === null) return 'not locked';
  const { state, owner, reason, until } = lock;
  if (state === 'damaged') return `locked: ${reason}`;
  if (state === 'expired') return `not locked any more: the lock of ${owner} (${reason}) ran out at ${until}`;
  return `locked by ${owner} until ${until}: ${reason}`;
}

/** Fails with `usage/invalid`. */
function durationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([smhd])$/.exec(text);
  const ms = match === null ? Number.NaN : Number(match[1]) * unitMs[match[2]!]!;
  if (ms >= 1000 && ms <= longestMs) return ms;
  throw new EdgeError('usage/invalid', `"${text}" is no time`, {
    subject: '--for',
    hint: 'Give a number and a unit, from 1s to 365d: 90s, 30m, 2h, 1d.',
  });
}
