import { connect } from 'mqtt';

/** Where a broker is, and who asks. */
export interface BrokerProbe {
  readonly url: string;
  /** Empty: none. */
  readonly username: string;
  readonly password: string | null;
  /** A name that no device has: the broker would end the connection of one that has it. */
  readonly clientId: string;
  readonly limitMs: number;
}

/** Connects to a broker and leaves again, publishing nothing. Answers whether it was let in, or why not. Never fails. */
export function probeBroker(probe: BrokerProbe): Promise<'connected' | { readonly isRefused: boolean; why: string }> {
  const { url, username, password, clientId, limitMs } = probe;
  return new Promise((resolve) => {
    let timer: NodeJS.Timeout | undefined;
    const client = connect(url, {
      protocolVersion: 5,
      clientId,
      reconnectPeriod: 0,
      connectTimeout: limitMs,
      ...(username === '' ? {} : { username }),
      ...(password === null ? {} : { password }),
    });
    // What comes after the first answer changes nothing.
    const end = (answer: 'connected' | { isRefused: boolean; why: string }) => {
      clearTimeout(timer);
      client.end(true);
      resolve(answer);
    };
    timer = setTimeout(() => end({ isRefused: false, why: `no answer within ${limitMs / 1000} s` }), limitMs);
    client.on('connect', () => end('connected'));
    // The broker's own codes are numbers, those of the system words.
    client.on('error', (error) =>
      end({ isRefused: typeof (error as { code?: unknown }).code === 'number', why: error.message || String(error) }),
    );
    client.on('close', () => end({ isRefused: false, why: 'the connection was closed' }));
  });
}
