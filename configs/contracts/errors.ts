/**
 * Every expected failure in the product is an `EdgeError` with a code from this table. The table is closed: a new failure is a
 * new row. `retryable` says whether trying the same thing again later can help; `hint` is the sentence that tells a person what
 * to do, used where the thrower has nothing more specific to say.
 */
export const errorTable = {
  'usage/invalid': { retryable: false, hint: 'See --help for the options and their forms.' },
  'model/unreadable': { retryable: false, hint: 'Check the path and that the file may be read.' },
  'model/malformed': { retryable: false, hint: 'Export the model again; the file is damaged or is not an ONNX model.' },
  'model/unsupported': {
    retryable: false,
    hint: 'Export the model with a default-domain opset between 8 and 21 and fixed shapes.',
  },
  'model/too-large': { retryable: false, hint: 'Use a smaller model, or raise the limit in the settings.' },
  'model/external-data': {
    retryable: false,
    hint: 'External data must be a plain file beside the model, as long as the model says.',
  },
  'card/invalid': { retryable: false, hint: 'Compare the model card with the format described in agent/README.md.' },
  'samples/unreadable': {
    retryable: false,
    hint: 'A sample set is calibration.npy or calibration/*, with optional test and labels.csv.',
  },
  'samples/mismatch': {
    retryable: false,
    hint: 'The samples do not fit the model input; check shape, crop and layout in the card.',
  },
  'budget/invalid': { retryable: false, hint: 'Example: latency=12ms,size=2MB,drop=1%.' },
  'budget/infeasible': { retryable: false, hint: 'Choose a point of the reported frontier.' },
  'target/unknown': { retryable: false, hint: 'Run `quantd doctor` to see the targets of this machine.' },
  'target/failed': {
    retryable: true,
    hint: 'Run `quantd doctor`; if it repeats, report the model and the runtime version.',
  },
  'estimator/unknown': { retryable: false, hint: 'See `quantd quantize --help` for the names.' },
  'solver/failed': { retryable: true, hint: 'Raise the time limit or use fewer candidate precisions.' },
  'store/corrupt': { retryable: false, hint: 'Move the state database away; it will be rebuilt by measuring again.' },
  'store/unwritable': { retryable: true, hint: 'Check free space and permissions of the state folder.' },
  'artifact/invalid': { retryable: false, hint: 'Produce the artifact again with `quantd quantize`.' },
  'measure/busy': { retryable: true, hint: 'Another process is measuring on this machine; wait for it to finish.' },
  'job/memory': {
    retryable: true,
    hint: 'Raise limits.workerMemoryMb in the settings, or release a smaller model.',
  },
  'confirm/failed': {
    retryable: false,
    hint: 'The previous model serves again. Change the release or the budget to try anew; the journal has the details.',
  },
  'infer/unavailable': { retryable: true, hint: 'Release a model to this device, and wait until it is active.' },
  'infer/invalid': { retryable: false, hint: 'Send what the model card describes; see agent/README.md.' },
  'lock/held': { retryable: true, hint: 'Wait until it is released or has run out, or take it over with --force.' },
  'broker/unusable': {
    retryable: true,
    hint: 'Choose another broker.host or broker.port in the settings; 0 is any free port.',
  },
  'selector/invalid': { retryable: false, hint: 'Forms: all, device=ID, group=NAME, LABEL=VALUE; a comma means and.' },
  'release/exists': { retryable: false, hint: 'Releases never change: give the new content another version.' },
  'release/unknown': { retryable: false, hint: 'See `fleet release list` for what there is.' },
  'device/unknown': { retryable: false, hint: 'See `fleet devices` for what there is.' },
  'rollout/invalid': { retryable: false, hint: 'See fleet-console/README.md for the keys of a policy.' },
  'rollout/unknown': { retryable: false, hint: 'See `fleet rollout list` for what there is.' },
  'rollout/conflict': { retryable: false, hint: 'Let the other rollout end, or abort it or roll it back.' },
  'rollout/state': { retryable: false, hint: 'See `fleet rollout status` for where it stands.' },
  'upload/invalid': { retryable: false, hint: 'Send the whole file again.' },
  'console/unreachable': { retryable: true, hint: 'Check --console, and that `fleet serve` runs there.' },
  'console/refused': { retryable: false, hint: 'Give a token of the console: --token-file FILE, or FLEET_TOKEN.' },
  'access/forbidden': { retryable: false, hint: 'Ask an admin for an account or a token of that role.' },
  'login/refused': { retryable: false, hint: 'Check both; an admin can set another: fleet account password NAME.' },
  'login/throttled': { retryable: true, hint: 'Too many attempts have failed. Wait as long as it says.' },
  'account/invalid': { retryable: false, hint: 'See `fleet account add --help`.' },
  'account/exists': { retryable: false, hint: 'Choose another name; see `fleet account list` for what there is.' },
  'account/unknown': { retryable: false, hint: 'See `fleet account list` for what there is.' },
  'account/last-admin': { retryable: false, hint: 'Make another account an admin first.' },
  'token/invalid': { retryable: false, hint: 'See `fleet token create --help`.' },
  'token/exists': { retryable: false, hint: 'Choose another name, or revoke that one first.' },
  'token/unknown': { retryable: false, hint: 'See `fleet token list` for what there is.' },
  'webhook/invalid': { retryable: false, hint: 'See `fleet webhook add --help`.' },
  'webhook/failed': { retryable: true, hint: 'Check the address, and that the endpoint answers with 2xx.' },
  'webhook/unknown': { retryable: false, hint: 'See `fleet webhook list` for what there is.' },
  'audit/broken': {
    retryable: false,
    hint: 'Somebody has changed the database past the console. Keep the file, and compare it with a backup.',
  },
  'settings/insecure': {
    retryable: false,
    hint: 'Make an account (`fleet account add NAME --role admin`) while it serves a loopback address, or set http.tokenFile.',
  },
  'outbox/too-large': { retryable: false, hint: 'Raise limits.outboxBytes in the settings.' },
  'settings/invalid': { retryable: false, hint: 'See `quantd config show`, and configs/README.md for the keys.' },
  'socket/busy': { retryable: false, hint: 'Stop the other daemon, or give this one a state folder of its own.' },
  'socket/unusable': { retryable: true, hint: 'Check the path, its length (107 bytes at most) and its permissions.' },
  'document/invalid': { retryable: false, hint: 'Nothing was changed. Use a console of the same major version.' },
  'disk/full': { retryable: true, hint: 'Free some space; work goes on by itself.' },
  'download/failed': { retryable: true, hint: 'Check that the console can be reached; it is tried again by itself.' },
  'download/mismatch': {
    retryable: true,
    hint: 'What the console sends is not what the release names; upload the model again.',
  },
  'mcu/unreachable': {
    retryable: true,
    hint: 'Check the cable, the path of the port and who may open it; the firmware must be the one that `npm run firmware` builds.',
  },
  'mcu/timeout': { retryable: true, hint: 'Check the cable; `quantd doctor` lists the serial ports.' },
  'mcu/refused': { retryable: false, hint: 'The message says what the firmware refuses, and why.' },
  'mcu/incompatible': {
    retryable: false,
    hint: 'Build the firmware of this version with `npm run firmware` and flash it.',
  },
  'mcu/trial-ended': {
    retryable: true,
    hint: 'It is brought up again by itself; see to the power of the board if this repeats.',
  },
  'mcu/wrong-result': {
    retryable: false,
    hint: 'The firmware must be the one that `npm run firmware` builds of this version; if it is, the board is faulty.',
  },
  'mcu/no-room': {
    retryable: false,
    hint: 'Use a smaller model, or a board with more memory; no budget can help.',
  },
  'mcu/no-firmware': { retryable: false, hint: 'Run `npm run firmware` first.' },
  'job/aborted': { retryable: true, hint: 'The job was interrupted; start it again, finished steps are kept.' },
} as const satisfies Record<string, { retryable: boolean; hint: string }>;

/** A code of the table. */
export type ErrorCode = keyof typeof errorTable;

/** What an error says beside its code and message. */
export interface ErrorDetails {
  /** What the error is about, as data: an operator, tensor, file, option, topic. Never a secret. */
  subject: string;
  /** What a person can do; the table's hint when absent. */
  hint?: string;
  cause?: unknown;
}

/** The plain-data form that crosses process borders and goes into JSON output. */
export interface ErrorDocument {
  code: ErrorCode;
  message: string;
  subject: string;
  hint: string;
  retryable: boolean;
}

/** An expected failure: a code from the table, a sentence, its subject and what to do about it. */
export class EdgeError extends Error {
  readonly code: ErrorCode;
  readonly subject: string;
  readonly hint: string;

  constructor(code: ErrorCode, message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'EdgeError';
    this.code = code;
    this.subject = details.subject;
    this.hint = details.hint ?? errorTable[code].hint;
  }

  get retryable(): boolean {
    return errorTable[this.code].retryable;
  }

  toDocument(): ErrorDocument {
    return {
      code: this.code,
      message: this.message,
      subject: this.subject,
      hint: this.hint,
      retryable: this.retryable,
    };
  }

  static fromDocument(document: ErrorDocument): EdgeError {
    return new EdgeError(document.code, document.message, { subject: document.subject, hint: document.hint });
  }
}
