import { randomBytes, type ScryptOptions, scrypt, timingSafeEqual } from 'node:crypto';
import { EdgeError } from '../../configs/contracts/errors.js';

/** 32 MiB a time, and 0.37 s of a server's core (measured); one of the least that OWASP's Password Storage Cheat Sheet recommends. */
const cost = { N: 2 ** 15, r: 8, p: 3 };
const keyBytes = 32;
const saltBytes = 16;
/** Work for passwords has so many threads of the pool, which files need as well. */
const mostAtOnce = 2;
const mostWaiting = 32;

let running = 0;
const waiting: (() => void)[] = [];

/** A password as it is stored: `scrypt$N$r$p$SALT$KEY`, the last two in base64. Fails with `login/throttled` when too many are asked for. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(saltBytes);
  const key = await derive(password, salt, cost);
  return ['scrypt', cost.N, cost.r, cost.p, salt.toString('base64'), key.toString('base64')].join('$');
}

/**
 * Whether a password is the stored one. Takes as long where there is none (null), and then answers false. Fails with `login/throttled`
 * when too many are asked for.
 */
export async function isPassword(password: string, stored: string | null): Promise<boolean> {
  const [, N, r, p, salt = '', key = ''] = (stored ?? nobody).split('$');
  const expected = Buffer.from(key, 'base64');
  const derived = await derive(password, Buffer.from(salt, 'base64'), { N: Number(N), r: Number(r), p: Number(p) });
  return timingSafeEqual(derived, expected) && stored !== null;
}

const nobody = [
  'scrypt',
  cost.N,
  cost.r,
  cost.p,
  randomBytes(saltBytes).toString('base64'),
  randomBytes(keyBytes).toString('base64'),
].join('$');

async function derive(
  password: string,
  salt: Buffer,
  { N, r, p }: { N: number; r: number; p: number },
): Promise<Buffer> {
  if (running >= mostAtOnce) {
    if (waiting.length >= mostWaiting)
      throw new EdgeError('login/throttled', 'too many log-ins are being checked', {
        subject: 'log-in',
        hint: 'Try again in a moment.',
      });
    await new Promise<void>((resolve) => waiting.push(resolve));
  } else running++;
  try {
    const options: ScryptOptions = { N, r, p, maxmem: 256 * N * r };
    // NFKC: the same characters are the same password, however a keyboard puts them together.
    return await new Promise((resolve, reject) =>
      scrypt(password.normalize('NFKC'), salt, keyBytes, options, (error, key) =>
        error === null ? resolve(key) : reject(error),
      ),
    );
  } finally {
    // The place goes to who waits longest, or is free.
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  }
}
