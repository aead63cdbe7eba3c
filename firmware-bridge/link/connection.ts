/**
 * Requests over a port, one at a time, each until its reply has come or its attempts are used up.
 *
 * INVARIANTS
 * 1. A reply is taken only where sequence number and command are those of the request that waits; every other frame is dropped.
 * 2. Every wait has an end: a lost frame costs a reply timeout, a command that takes long its work timeout, each `attempts` times at most.
 * 3. Once the port is gone or the firmware was reset, every request fails, those that wait at once.
 */
import { EdgeError } from '../../configs/contracts/errors.js';
import {
  type CommandName,
  commands,
  decodeRecord,
  encodeRecord,
  failureFields,
  protocolVersion,
  type ReplyOf,
  type RequestOf,
  type StatusName,
  statuses,
  statusName,
} from '../../configs/contracts/mcu.js';
import { encodeFrame, type Frame, FrameReader } from './framing.js';

/** A line of bytes in both directions. */
export interface Port {
  /** A path, for people. */
  readonly name: string;
  /** Called for every chunk that arrives; there is one listener. */
  listen(listener: (chunk: Uint8Array) => void): void;
  /** Resolves when the system has taken the bytes; a port that cannot closes. */
  write(bytes: Uint8Array): Promise<void>;
  /** Resolves, with the reason, when nothing will be sent or received any more. */
  readonly closed: Promise<string>;
  close(): Promise<void>;
}

/** How long is waited, and how often; each has a default that suits a serial line. */
export interface ConnectionOptions {
  /** For a reply, or the note that a command takes long. */
  readonly replyTimeoutMs?: number;
  /** For the reply to a command that takes long, counted from its note. */
  readonly workTimeoutMs?: number;
  /** How often a request is sent. */
  readonly attempts?: number;
  /** For the first contact: an emulator looks at an idle line once a second. */
  readonly handshakeMs?: number;
  /** Without a request for so long, the firmware is asked whether it is there. */
  readonly heartbeatMs?: number;
  /** Draws the session's number and the first sequence number, from 0 to 2^32 - 1. */
  readonly random?: () => number;
}

const defaults = { replyTimeoutMs: 1000, workTimeoutMs: 120_000, attempts: 5, handshakeMs: 3000, heartbeatMs: 5000 };
/** Between two greetings. */
const greetingMs = 250;

/** The firmware answered with a status other than `ok`. */
export class McuRefusal extends EdgeError {
  readonly status: StatusName | 'unknown';
  /** What the status has to say; see `statuses`. */
  readonly detail: number;

  constructor(command: CommandName, status: StatusName | 'unknown', detail: number, port: string) {
    super('mcu/refused', `the firmware refuses ${command}: ${meaningOf(status, detail)}`, { subject: port });
    this.status = status;
    this.detail = detail;
  }
}

function meaningOf(status: StatusName | 'unknown', detail: number): string {
  const meanings: Partial<Record<StatusName | 'unknown', string>> = {
    unknownCommand: 'it does not know the command',
    malformed: 'the request has a wrong length',
    range: 'an argument is out of range',
    slotSealed: 'the slot is sealed; open it first',
    slotEmpty: 'the slot holds no sealed image',
    slotInUse: 'the slot is active, or what a trial goes back to',
    readOnly: 'the slot cannot be written to',
    notErased: `something else is written there; the sector at ${detail} is to be erased`,
    digest: 'the slot holds something of another hash',
    image: `its engine refuses the image (status ${detail})`,
    memory: `the model needs ${detail} bytes of RAM, which the board does not have`,
    noModel: 'no model is loaded',
    noInput: 'the inputs are not complete',
    noOutput: 'nothing was run since the inputs were written',
    notOnTrial: 'no activation is on trial',
    overflow: 'the counter went around while it measured',
    storage: 'its flash memory did not take what was written',
  };
  return meanings[status] ?? `status ${status}`;
}

interface Pending {
  readonly sequence: number;
  readonly command: number;
  readonly workTimeoutMs: number;
  /** null: the time is up. */
  settle(frame: Frame | null): void;
  fail(error: EdgeError): void;
  timer: NodeJS.Timeout;
}

/** A session with the firmware at the other end of a port. Close it. */
export class Connection {
  readonly #port: Port;
  readonly #options: Required<ConnectionOptions>;
  /** Resolves with the reason when nothing can be asked any more, whoever closed it. */
  readonly ended: Promise<EdgeError>;
  readonly #reader = new FrameReader();
  readonly #heartbeat: NodeJS.Timeout;
  #sequence: number;
  #pending: Pending | null = null;
  /** Requests that wait for their turn are links of this chain. */
  #last: Promise<unknown> = Promise.resolve();
  #waiting = 0;
  #isWriting = false;
  #unsent: Uint8Array | null = null;
  #lost: EdgeError | null = null;
  #tellEnded: (reason: EdgeError) => void = () => {};
  /** Of the port, once the connection is lost. */
  #released: Promise<void> = Promise.resolve();
  #dropped = 0;

  /** Greets the firmware. Fails with `mcu/unreachable` where none answers in time, `mcu/incompatible` where its protocol is another; closes the port then. */
  static async open(port: Port, options: ConnectionOptions = {}): Promise<Connection> {
    const connection = new Connection(port, options);
    try {
      await connection.greet();
    } catch (error) {
      await connection.close();
      throw error;
    }
    return connection;
  }

  private constructor(port: Port, options: ConnectionOptions) {
    this.#port = port;
    const random = options.random ?? (() => Math.floor(Math.random() * 2 ** 32));
    this.#options = { ...defaults, random, ...options };
    this.#sequence = random();
    this.ended = new Promise((resolve) => {
      this.#tellEnded = resolve;
    });
    port.listen((chunk) => this.#take(chunk));
    port.closed.then((reason) => this.#lose(`the port was closed: ${reason}`));
    this.#heartbeat = setInterval(() => this.#beat(), this.#options.heartbeatMs);
    this.#heartbeat.unref();
  }

  /** Of the port. */
  get name(): string {
    return this.#port.name;
  }

  /** Why nothing can be asked any more, and the port is given back; null while something can. */
  get lost(): EdgeError | null {
    return this.#lost;
  }

  /** Damaged stretches of what arrived, and frames that nobody waited for. */
  get lineErrors(): { readonly damaged: number; readonly dropped: number } {
    return { damaged: this.#reader.damaged, dropped: this.#dropped };
  }

  /** Begins a session, as after a reset that was asked for. Fails as `open` does. */
  async greet(): Promise<void> {
    const session = this.#options.random();
    const deadline = performance.now() + this.#options.handshakeMs;
    const reply = await this.#enqueue(async () => {
      while (true) {
        const left = deadline - performance.now();
        const greeting = { protocol: protocolVersion, session };
        const frame = await this.#attempt('hello', greeting, this.#nextSequence(), Math.min(greetingMs, left), 0);
        if (frame !== null) return decodeRecord(commands.hello.reply, frame.payload);
        if (performance.now() >= deadline) {
          const message = `no firmware answered in ${this.#options.handshakeMs / 1000} s`;
          throw new EdgeError('mcu/unreachable', message, { subject: this.name });
        }
      }
    });
    if (reply.protocol === protocolVersion) return;
    const message = `the firmware speaks version ${reply.protocol} of the protocol, and this program version ${protocolVersion}`;
    throw new EdgeError('mcu/incompatible', message, { subject: this.name });
  }

  /**
   * Asks the firmware for something. Requests that are made meanwhile wait for their turn. Fails with McuRefusal (`mcu/refused`),
   * `mcu/timeout`, and `mcu/unreachable` once the connection is lost.
   *
   * @param workTimeoutMs how long a command that takes long may take, if not as long as the connection's options say
   */
  request<Name extends CommandName>(
    name: Name,
    values: RequestOf<Name>,
    workTimeoutMs = this.#options.workTimeoutMs,
  ): Promise<ReplyOf<Name>> {
    return this.#enqueue(async () => {
      const sequence = this.#nextSequence();
      for (let attempt = 0; attempt < this.#options.attempts; attempt++) {
        const frame = await this.#attempt(name, values, sequence, this.#options.replyTimeoutMs, workTimeoutMs);
        if (frame !== null) return this.#replyOf(name, frame);
      }
      const message = `no answer to ${name} after ${this.#options.attempts} attempts`;
      throw new EdgeError('mcu/timeout', message, { subject: this.name });
    });
  }

  /** Closes the port; requests that wait fail. */
  async close(): Promise<void> {
    this.#lose('the connection was closed');
    await this.#released;
  }

  #nextSequence(): number {
    this.#sequence = (this.#sequence + 1) >>> 0;
    return this.#sequence;
  }

  #enqueue<T>(work: () => Promise<T>): Promise<T> {
    this.#waiting++;
    const turn = this.#last.then(() => {
      if (this.#lost !== null) throw this.#lost;
      return work();
    });
    this.#last = turn
      .catch(() => {})
      .finally(() => {
        this.#waiting--;
      });
    return turn;
  }

  /** Sends a request once; answers its reply, or null when the time is up. */
  #attempt<Name extends CommandName>(
    name: Name,
    values: RequestOf<Name>,
    sequence: number,
    replyTimeoutMs: number,
    workTimeoutMs: number,
  ): Promise<Frame | null> {
    if (this.#lost !== null) return Promise.reject(this.#lost);
    const { code, request } = commands[name];
    const frame = { header: { sequence, command: code, status: 0 }, payload: encodeRecord(request, values as never) };
    const bytes = encodeFrame(frame);
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(pending.timer);
        this.#pending = null;
      };
      const pending: Pending = {
        sequence,
        command: code,
        workTimeoutMs,
        settle: (frame) => {
          end();
          resolve(frame);
        },
        fail: (error) => {
          end();
          reject(error);
        },
        timer: setTimeout(() => pending.settle(null), replyTimeoutMs),
      };
      this.#pending = pending;
      this.#send(bytes);
    });
  }

  /** Writes, or lets the write that is under way end first; then only the newest is of interest. */
  #send(bytes: Uint8Array): void {
    if (this.#isWriting) {
      this.#unsent = bytes;
      return;
    }
    this.#isWriting = true;
    this.#port
      .write(bytes)
      .catch(() => {})
      .finally(() => {
        this.#isWriting = false;
        const next = this.#unsent;
        this.#unsent = null;
        if (next !== null && this.#lost === null) this.#send(next);
      });
  }

  #take(chunk: Uint8Array): void {
    for (const frame of this.#reader.push(chunk)) {
      const pending = this.#pending;
      const { sequence, command, status } = frame.header;
      if (pending === null || pending.sequence !== sequence || pending.command !== command) this.#dropped++;
      else if (status === statuses.noSession) this.#lose('the firmware was reset');
      else if (status !== statuses.started) pending.settle(frame);
      else {
        clearTimeout(pending.timer);
        pending.timer = setTimeout(() => pending.settle(null), pending.workTimeoutMs);
      }
    }
  }

  #replyOf<Name extends CommandName>(name: Name, { header, payload }: Frame): ReplyOf<Name> {
    if (header.status === statuses.ok) return decodeRecord(commands[name].reply, payload) as ReplyOf<Name>;
    const { detail } = decodeRecord(failureFields, payload);
    throw new McuRefusal(name, statusName(header.status) ?? 'unknown', detail, this.name);
  }

  #beat(): void {
    if (this.#waiting > 0 || this.#lost !== null) return;
    this.request('echo', { data: new Uint8Array(0) }).catch((error: Error) =>
      this.#lose(`the firmware answers no more: ${error.message}`),
    );
  }

  #lose(reason: string): void {
    if (this.#lost !== null) return;
    this.#lost = new EdgeError('mcu/unreachable', reason, { subject: this.name });
    clearInterval(this.#heartbeat);
    this.#pending?.fail(this.#lost);
    // A pseudo-terminal may be open twice, and whoever holds on to it takes bytes from the next one.
    this.#released = this.#port.close();
    this.#released.catch(() => {});
    this.#tellEnded(this.#lost);
  }
}
