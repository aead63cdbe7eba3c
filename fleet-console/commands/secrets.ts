import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { EdgeError } from '../../configs/contracts/errors.js';

/** A password would have to be longer than is allowed. */
const mostBytes = 65_536;

/**
 * A secret that nobody else on the machine can see: from a file, else asked for without echo, else (where nobody is at a terminal) from
 * standard input. The line's end does not belong to it.
 *
 * @param isNew whether it is to be typed twice
 */
export async function readSecret(what: string, file: string | undefined, isNew: boolean): Promise<string> {
  if (file !== undefined) {
    const text = await readFile(file, 'utf8').catch((cause: Error) => {
      throw new EdgeError('usage/invalid', `${what} cannot be read: ${cause.message}`, { subject: file, cause });
    });
    return withoutEnd(text);
  }
  if (process.stdin.isTTY !== true) return withoutEnd(await everythingFromInput(what));
  const first = await ask(`${what}: `);
  if (isNew && (await ask(`${what}, again: `)) !== first)
    throw new EdgeError('usage/invalid', 'the two are not the same', {
      subject: what,
      hint: 'Nothing was changed; try again.',
    });
  return first;
}

async function everythingFromInput(what: string): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of process.stdin as AsyncIterable<Buffer>) {
    pieces.push(piece);
    bytes += piece.length;
    if (bytes > mostBytes) throw new EdgeError('usage/invalid', `${what} is too long`, { subject: 'standard input' });
  }
  return Buffer.concat(pieces).toString('utf8');
}

function ask(question: string): Promise<string> {
  const nowhere = new Writable({ write: (_text, _encoding, done) => done() });
  const lines = createInterface({ input: process.stdin, output: nowhere, terminal: true, historySize: 0 });
  process.stderr.write(question);
  return new Promise((resolve, reject) => {
    let answer: string | null = null;
    lines.once('line', (line) => {
      answer = line;
      lines.close();
    });
    lines.once('SIGINT', () => {
      lines.close();
      process.stderr.write('\n');
      process.exit(130);
    });
    lines.once('close', () => {
      process.stderr.write('\n');
      if (answer !== null) resolve(answer);
      else reject(new EdgeError('usage/invalid', 'nothing was typed', { subject: question.replace(/: $/, '') }));
    });
  });
}

function withoutEnd(text: string): string {
  return text.replace(/\r?\n$/, '');
}
