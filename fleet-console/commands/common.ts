import type { Command } from 'commander';
import { textTable } from '../../agent/core/text-table.js';
import type { Budget } from '../../configs/contracts/plan.js';
import { ConsoleClient } from '../client.js';

/** Options of every command that talks to a console. */
export interface ClientFlags {
  readonly console: string;
  readonly tokenFile?: string;
  /** Of the environment: on a command line, everybody on the machine could read it. */
  readonly token?: string;
  readonly json?: boolean;
}

/** Adds `--console`, `--token-file` and `--json`; a token in FLEET_TOKEN comes before FLEET__CONSOLE__TOKEN_FILE, and after the option. */
export function addClientOptions(command: Command, environment: NodeJS.ProcessEnv): Command {
  const token = environment.FLEET_TOKEN || undefined;
  const tokenFile = token === undefined ? environment.FLEET__CONSOLE__TOKEN_FILE : undefined;
  return command
    .setOptionValueWithSource('token', token, 'env')
    .option('--console <url>', 'address of the console', environment.FLEET__CONSOLE__URL ?? 'http://127.0.0.1:7400')
    .option('--token-file <file>', 'file with a token of the console; or FLEET_TOKEN holds one', tokenFile)
    .option('--json', 'print one JSON document on stdout and nothing else there');
}

/** The console that the options name. */
export function clientOf({ console: url, tokenFile, token }: ClientFlags): Promise<ConsoleClient> {
  return ConsoleClient.open({ url, tokenFile, token });
}

/** The `--json` answer. */
export function printJson(document: unknown): void {
  process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
}

/** A table on stdout. */
export function printTable(header: readonly string[], rows: readonly (readonly (string | number | null)[])[]): void {
  process.stdout.write(`${textTable(header, rows)}\n`);
}

/** `1.23 ms`; `-` where nothing is known. */
export function inUnit(value: number | null | undefined, unit = 'ms'): string {
  return value === null || value === undefined ? '-' : `${Number(value.toPrecision(3))} ${unit}`;
}

/** `98.1 %`. */
export function inPercent(share: number | null | undefined): string {
  return share === null || share === undefined ? '-' : `${(share * 100).toFixed(1)} %`;
}

/** `12.3 KB`. */
export function inBytes(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return '-';
  return bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(1)} KB` : `${(bytes / 1024 ** 2).toFixed(2)} MB`;
}

/** A budget as it is typed. */
export function budgetText(budget: Budget): string {
  const parts: Record<keyof Budget, (value: number) => string> = {
    latencyMs: (value) => `latency=${value}ms`,
    latencyRatio: (value) => `latency=${value}x`,
    sizeBytes: (value) => `size=${value}B`,
    ramBytes: (value) => `ram=${value}B`,
    flashBytes: (value) => `flash=${value}B`,
    energyMj: (value) => `energy=${value}mJ`,
    sensitivity: (value) => `sensitivity=${value}`,
    drop: (value) => `drop=${Number((value * 100).toPrecision(6))}%`,
    agreement: (value) => `agreement=${Number((value * 100).toPrecision(6))}%`,
    rounds: (value) => `rounds=${value}`,
  };
  const texts = Object.entries(budget).map(
    ([name, value]) => parts[name as keyof Budget]?.(value) ?? `${name}=${value}`,
  );
  return texts.length === 0 ? 'none' : texts.join(',');
}
