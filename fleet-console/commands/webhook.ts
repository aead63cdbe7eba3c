import type { Command } from 'commander';
import { EdgeError } from '../../configs/contracts/errors.js';
import { type WebhookAttempt, type WebhookDocument, webhookEvents } from '../../configs/contracts/people.js';
import { addClientOptions, type ClientFlags, clientOf, printJson, printTable } from './common.js';
import { readSecret } from './secrets.js';

/** Adds `webhook add`, `list`, `remove` and `test`. */
export function registerWebhook(program: Command, environment: NodeJS.ProcessEnv): void {
  const webhook = program.command('webhook').description('tells other programs over HTTP what happens in the fleet');
  const pathOf = (id: string) => `/v1/webhooks/${encodeURIComponent(id)}`;

  const add = webhook
    .command('add')
    .description('adds an endpoint, and shows the secret that its deliveries are signed with')
    .argument('<url>', 'http:// or https://; redirects are not followed')
    .requiredOption('--events <kinds>', `comma list of ${webhookEvents.join(', ')}`)
    .option(
      '--secret-file <file>',
      'file with the secret, 16 bytes or more (default: one is made, and shown this once)',
    );
  addClientOptions(add, environment)
    .addHelpText(
      'after',
      `
Kinds: device, what devices report; result, what they measured; rollout, what rollouts decide; audit, who did what.
Deliveries are POST requests with { id, kind, time, data }, at least once each; the id tells what came twice. An answer of 2xx takes one;
anything else is tried again, ever more slowly, and given up after a day (webhooks.giveUpSeconds). They are signed as Standard Webhooks
describes: header webhook-signature is "v1," and the base64 of HMAC-SHA256 over ID.TIMESTAMP.BODY (headers webhook-id, webhook-timestamp).

Example:
  fleet webhook add https://ops.example/fleet --events rollout,audit`,
    )
    .action(async (url: string, flags: ClientFlags & { events: string; secretFile?: string }) => {
      const events = flags.events.split(',').map((kind) => kind.trim());
      const secret =
        flags.secretFile === undefined ? {} : { secret: await readSecret('secret', flags.secretFile, false) };
      const client = await clientOf(flags);
      const body = { url, events, ...secret };
      const added = await client.send<WebhookDocument & { secret: string }>('POST', '/v1/webhooks', body);
      if (flags.json) return printJson(added);
      process.stdout.write(`webhook ${added.id} tells ${added.url} of ${added.events.join(', ')}\n`);
      if (flags.secretFile === undefined) process.stdout.write(`secret, not shown again: ${added.secret}\n`);
    });

  const list = webhook.command('list').description('endpoints, with what became of their deliveries');
  addClientOptions(list, environment).action(async (flags: ClientFlags) => {
    const answer = await (await clientOf(flags)).get<{ webhooks: WebhookDocument[] }>('/v1/webhooks');
    if (flags.json) return printJson(answer);
    printTable(
      ['webhook', 'url', 'events', 'waiting', 'delivered', 'dropped', 'given up', 'last attempt'],
      answer.webhooks.map(({ id, url, events, pending, delivered, dropped, givenUp, lastAttempt }) => [
        id,
        url,
        events.join(','),
        pending,
        delivered,
        dropped,
        givenUp,
        lastAttempt === null ? '-' : `${lastAttempt.time} ${lastAttempt.error ?? 'taken'}`,
      ]),
    );
  });

  const remove = webhook
    .command('remove')
    .description('removes an endpoint, and what waits for it')
    .argument('<id>', 'its number, as `fleet webhook list` shows it');
  addClientOptions(remove, environment).action(async (id: string, flags: ClientFlags) => {
    await (await clientOf(flags)).send('DELETE', pathOf(id));
    if (flags.json) printJson({ id: Number(id), isRemoved: true });
    else process.stdout.write(`webhook ${id} is removed\n`);
  });

  const test = webhook
    .command('test')
    .description(
      'sends an endpoint a message of kind test, once, and tells what came of it; exit code 1 when it was not taken',
    )
    .argument('<id>', 'its number, as `fleet webhook list` shows it');
  addClientOptions(test, environment).action(async (id: string, flags: ClientFlags) => {
    const attempt = await (await clientOf(flags)).send<WebhookAttempt>('POST', `${pathOf(id)}/test`, {});
    if (flags.json) printJson(attempt);
    if (!attempt.isDelivered) throw new EdgeError('webhook/failed', attempt.error!, { subject: `webhook ${id}` });
    if (!flags.json) process.stdout.write(`webhook ${id} took it, with status ${attempt.status}\n`);
  });
}
