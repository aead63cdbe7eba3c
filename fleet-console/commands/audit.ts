import type { Command } from 'commander';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { AuditEntry, AuditPage, AuditVerdict } from '../../configs/contracts/people.js';
import type { ConsoleClient } from '../client.js';
import { addClientOptions, type ClientFlags, clientOf, printJson, printTable } from './common.js';

interface AuditFlags extends ClientFlags {
  readonly actor?: string;
  readonly action?: string;
  readonly subject?: string;
  readonly limit: string;
}

const pageSize = 1000;
const mostDetails = 100;

/** Adds `audit` and `audit verify`. */
export function registerAudit(program: Command, environment: NodeJS.ProcessEnv): void {
  const audit = program
    .command('audit')
    .description('who did what, newest first; see also: audit verify')
    .option('--actor <name>', 'of this account only, or "token NAME", "token file", local, console')
    .option('--action <action>', 'such as budget.set, rollout.start, session.login')
    .option('--subject <subject>', 'such as a selector, a release, "rollout 3", an account')
    .option('--limit <number>', 'so many at most', '50');
  addClientOptions(audit, environment)
    .addHelpText(
      'after',
      `
Examples:
  fleet audit --actor ada --limit 20
  fleet audit --action rollout.decide --subject "rollout 3" --json`,
    )
    .action(async (flags: AuditFlags) => {
      const entries = await read(await clientOf(flags), flags);
      if (flags.json) return printJson({ entries });
      printTable(
        ['number', 'time', 'actor', 'role', 'action', 'subject', 'details'],
        entries.map(({ number, time, actor, role, action, subject, details }) => {
          const text = JSON.stringify(details);
          const shown = text.length > mostDetails ? `${text.slice(0, mostDetails - 1)}…` : text;
          return [number, time, actor, role, action, subject, text === '{}' ? '-' : shown];
        }),
      );
    });

  const verify = audit
    .command('verify')
    .description('checks that nothing in the audit was changed, removed or put between')
    .option('--head <hash>', 'a head that was written down earlier: it must still be there');
  addClientOptions(verify, environment)
    .addHelpText(
      'after',
      `
Each entry is bound to the one before by its hash. What was cut off at the end, and an audit that was written anew as a whole, only show
against a head that is kept elsewhere: keep what this prints, and give it back next time. Exit code 1 when it is broken.

Example:
  fleet audit verify --json | jq -r .head.hash > head      and later:  fleet audit verify --head $(cat head)`,
    )
    .action(async (flags: ClientFlags & { head?: string }) => {
      const verdict = await (await clientOf(flags)).get<AuditVerdict>('/v1/audit/verify', { head: flags.head });
      if (flags.json) printJson(verdict);
      if (!verdict.isIntact) throw broken(verdict, flags.head);
      if (flags.json) return;
      const { entries, head } = verdict;
      process.stdout.write(
        head === null ? 'the audit is empty\n' : `intact: ${entries} entries\nhead ${head.number}  ${head.hash}\n`,
      );
    });
}

async function read(client: ConsoleClient, { actor, action, subject, limit }: AuditFlags): Promise<AuditEntry[]> {
  const most = Number(limit);
  if (!Number.isInteger(most) || most < 1)
    throw new EdgeError('usage/invalid', `${limit} is no number of entries`, { subject: '--limit' });
  const entries: AuditEntry[] = [];
  let before: number | undefined;
  do {
    const query = { actor, action, subject, before, limit: Math.min(pageSize, most - entries.length) };
    const page = await client.get<AuditPage>('/v1/audit', query);
    entries.push(...page.entries);
    before = page.next ?? undefined;
  } while (before !== undefined && entries.length < most);
  return entries;
}

function broken({ firstBroken, isHeadFound, entries }: AuditVerdict, head: string | undefined): EdgeError {
  const subject = isHeadFound === false ? head! : `entry ${firstBroken}`;
  const text =
    firstBroken === null
      ? `the head that was written down is not among its ${entries} entries: the end was cut off, or all of it was written anew`
      : `entry ${firstBroken} is not as it was written, is missing, or is out of place`;
  return new EdgeError('audit/broken', text, { subject });
}
