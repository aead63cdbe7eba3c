import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../fleet-console/main.js', import.meta.url));

/** What a command has said, and how it ended. */
export interface FleetAnswer {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command `fleet` against a console, as a person does. */
export function fleet(url: string, ...args: string[]): Promise<FleetAnswer> {
  return fleetWith({}, url, ...args);
}

/** The same with a token in the environment, and something on standard input. */
export function fleetWith(
  { token, input = '' }: { token?: string | undefined; input?: string },
  url: string,
  ...args: string[]
): Promise<FleetAnswer> {
  return new Promise((resolve) => {
    const { FLEET_TOKEN: _, ...inherited } = process.env;
    const environment = {
      ...inherited,
      FLEET__CONSOLE__URL: url,
      ...(token === undefined ? {} : { FLEET_TOKEN: token }),
    };
    const child = execFile(process.execPath, [main, ...args], { env: environment }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
    // A command that fails early reads nothing.
    child.stdin!.on('error', () => {});
    child.stdin!.end(input);
  });
}
