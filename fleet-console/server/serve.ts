/** The console as a whole: opens everything in order, and closes it in order. */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConsoleSettings } from '../../configs/contracts/console-settings.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import { Accounts } from './accounts.js';
import type { Announce } from './announce.js';
import { buildApi } from './api.js';
import { ArtifactFolder } from './artifacts.js';
import { AuditLog } from './audit.js';
import { Auth } from './auth.js';
import { EmbeddedBroker } from './broker.js';
import { ConsoleDatabase } from './database.js';
import { Fleet } from './fleet.js';
import { Health } from './health.js';
import { Intake } from './intake.js';
import { ConsoleLink } from './link.js';
import { ConsoleMetrics } from './metrics.js';
import { Predictions } from './predictions.js';
import { RolloutStore } from './rollout-store.js';
import { Rollouts } from './rollouts.js';
import { Sessions } from './sessions.js';
import { ConsoleStore } from './store.js';
import { TableStore } from './table-store.js';
import { Tables } from './tables.js';
import { Tokens } from './tokens.js';
import { Webhooks } from './webhooks.js';

/** How long the start waits for the connection to a broker of our own. */
const listenMs = 5000;

/** What the console needs beside its settings. */
export interface ConsoleSurroundings {
  readonly version: string;
  readonly stateFolder: string;
  readonly warn: (text: string) => void;
}

/** A console that serves. */
export interface OpenConsole {
  /** Address of the API and the page. */
  readonly url: string;
  /** Address of the broker that devices are to use. */
  readonly brokerUrl: string;
  close(): Promise<void>;
}

/**
 * Opens database, broker, link and API. Fails before anything listens where the settings would expose it to others, and neither a token
 * nor an account is there.
 */
export async function openConsole(settings: ConsoleSettings, surroundings: ConsoleSurroundings): Promise<OpenConsole> {
  const { version, stateFolder, warn } = surroundings;
  const { http, broker: brokerSettings, mqtt, retention } = settings;
  const token = await tokenFrom(http.tokenFile);
  await mkdir(stateFolder, { recursive: true }).catch((cause: Error) => {
    throw new EdgeError('store/unwritable', `the state folder cannot be made: ${cause.message}`, {
      subject: stateFolder,
      cause,
    });
  });
  const database = new ConsoleDatabase(join(stateFolder, 'fleet.db'));
  const announce: Announce = (kind, document) => webhooks.announce(kind, document);
  const audit = new AuditLog(database, announce);
  const webhooks = new Webhooks(database, audit, {
    timeoutMs: settings.webhooks.timeoutMs,
    giveUpMs: settings.webhooks.giveUpSeconds * 1000,
    mostPending: settings.webhooks.mostPending,
    warn,
  });
  const accounts = new Accounts(database, audit);
  const tokens = new Tokens(database, audit);
  const sessions = new Sessions(database, accounts);
  const auth = new Auth({ database, accounts, tokens, sessions, audit, sharedToken: token });
  const store = new ConsoleStore(database, retention, announce);
  const artifacts = new ArtifactFolder(join(stateFolder, 'artifacts'));
  const fleet = new Fleet(store, artifacts, audit);
  const tables = new Tables(new TableStore(database), store);
  const rollouts = new Rollouts(store, new RolloutStore(database, retention.events), fleet, { audit, announce, warn });
  const { namespace, tenant } = mqtt;
  const intake = new Intake({ namespace, tenant, store, fleet, table: (part) => tables.take(part), warn });
  const isBrokerOpen = brokerSettings.embedded && !isLoopback(brokerSettings.host);
  // What the console itself shows a broker of its own.
  const ownPassword = randomBytes(32).toString('base64url');
  let isListening = () => {};
  const listening = new Promise<void>((resolve) => {
    isListening = resolve;
  });
  let broker: EmbeddedBroker | null = null;
  let link: ConsoleLink | null = null;
  try {
    if (auth.isOpen) refuseExposure(settings);
    await artifacts.clean();
    broker = brokerSettings.embedded
      ? await EmbeddedBroker.open({
          host: brokerSettings.host,
          port: brokerSettings.port,
          namespace,
          tenant,
          ownPassword,
          isPassword: isBrokerOpen ? (shown) => auth.admitsDevice(shown) : null,
          take: intake.take,
          warn,
        })
      : null;
    const brokerUrl = broker?.url ?? mqtt.url;
    link = new ConsoleLink(store, {
      url: brokerUrl,
      username: broker === null ? mqtt.username : 'console',
      password: broker === null ? await secretFrom(mqtt.passwordFile) : ownPassword,
      namespace,
      tenant,
      warn,
      // A broker of our own hands over what devices say before it acknowledges it.
      take: broker === null ? intake.take : null,
      listening: () => {
        broker?.admit();
        isListening();
      },
    });
    broker?.reserve(link.clientId);
    const opened = { broker, link };
    const app = await buildApi({
      store,
      fleet,
      rollouts,
      tables,
      predictions: new Predictions(store, tables),
      artifacts,
      metrics: new ConsoleMetrics({ store, intake, link, rollouts, auth, audit, webhooks }),
      people: { auth, accounts, tokens, secureCookie: http.secureCookie },
      audit,
      webhooks,
      health: new Health(database, link),
      version,
      mostUploadBytes: http.mostUploadBytes,
      behindProxy: http.behindProxy,
      warn,
    });
    await app.listen({ host: http.host, port: http.port }).catch((cause: Error) => {
      throw new EdgeError('settings/invalid', `the API cannot listen: ${cause.message}`, {
        subject: `${http.host}:${http.port}`,
        hint: 'Choose another http.host or http.port; 0 is any free port.',
        cause,
      });
    });
    link.start();
    fleet.attach(link);
    rollouts.start();
    webhooks.start();
    // With a broker of our own this takes a moment; another one may be away.
    if (broker !== null) await Promise.race([listening, sleep(listenMs, undefined, { ref: false })]);
    const { port } = app.server.address() as AddressInfo;
    return {
      url: `http://${isIP(http.host) === 6 ? `[${http.host}]` : http.host}:${port}`,
      brokerUrl,
      async close() {
        rollouts.stop();
        webhooks.stop();
        auth.close();
        app.server.closeAllConnections();
        await app.close();
        await opened.link.close();
        await opened.broker?.close();
        intake.close();
        fleet.close();
        await tables.close();
        database.close();
      },
    };
  } catch (error) {
    rollouts.stop();
    webhooks.stop();
    auth.close();
    await link?.close();
    await broker?.close();
    intake.close();
    fleet.close();
    database.close();
    throw error;
  }
}

/** Fails with `settings/insecure` where others than this machine could reach what asks nobody who they are. */
function refuseExposure({ http, broker }: ConsoleSettings): void {
  if (!isLoopback(http.host)) {
    throw new EdgeError(
      'settings/insecure',
      `http.host is ${http.host}, and there is neither an account nor a token: anybody there could command the fleet`,
      { subject: 'http.host' },
    );
  }
  if (broker.embedded && !isLoopback(broker.host)) {
    throw new EdgeError(
      'settings/insecure',
      `broker.host is ${broker.host}, and there is neither an account nor a token: anybody there could command the devices`,
      {
        subject: 'broker.host',
        hint: 'Make an account and a token of role device for the devices, or set http.tokenFile; devices show it as mqtt.passwordFile.',
      },
    );
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** The token that clients and devices show; null where none is set. */
async function tokenFrom(path: string): Promise<string | null> {
  const token = await secretFrom(path);
  if (token === null || token.length >= 16) return token;
  throw new EdgeError('settings/insecure', 'a token of less than 16 characters can be guessed', {
    subject: path,
    hint: 'For example: head -c 24 /dev/urandom | base64 > FILE',
  });
}

/** Content of a file that holds one secret; null where none is named. */
async function secretFrom(path: string): Promise<string | null> {
  if (path === '') return null;
  const text = await readFile(path, 'utf8').catch((cause: Error) => {
    throw new EdgeError('settings/invalid', `a secret cannot be read: ${cause.message}`, { subject: path, cause });
  });
  if (text.trim() !== '') return text.trim();
  throw new EdgeError('settings/insecure', 'the file of a secret is empty', {
    subject: path,
    hint: 'Write the secret into it, or name no file.',
  });
}
