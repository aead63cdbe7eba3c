/** The ports of the daemon: what its loop needs from the world beside those of the pipeline. Types only. */
import type { Birth, DesiredState, DeviceEvent, DeviceResult, ReportedState } from '../configs/contracts/device.js';
import type { Budget } from '../configs/contracts/plan.js';
import type { BlobRef, Release } from '../configs/contracts/release.js';
import type { DeviceTable, ModelTable } from '../configs/contracts/tables.js';
import type { GatePolicy, GateReading } from './core/gates/decide.js';
import type { DeviceStep } from './core/reconcile.js';
import type { StepProgress } from './pipeline.js';
import type { Feed, TargetIdentity } from './ports.js';
import type { QuantizeDocument } from './report.js';

/** Messages that must arrive, kept on disk until the broker has acknowledged them. */
export interface Outbox {
  /**
   * Keeps a message; durable when this returns. The oldest messages of the lowest class are thrown away when the caps on bytes
   * or age are passed: a device that is offline for long keeps its newest results. Fails with `disk/full` or `store/unwritable`.
   */
  put(message: { kind: OutboxKind; payload: string }): void;
  /** The next messages to send, oldest first. */
  next(count: number): readonly { id: number; kind: OutboxKind; payload: string }[];
  /** Forgets an acknowledged message. */
  remove(id: number): void;
  state(): { messages: number; bytes: number; dropped: number };
  close(): void;
}

/** Classes of messages: when space is short, results outlive events, and events outlive parts of tables. */
export type OutboxKind = 'event' | 'result' | 'table';

/** What the link tells its owner. */
export interface FleetListener {
  /** A `desired` document as it came, not yet checked. Called again with the same after every connect. */
  desired(payload: Uint8Array): void;
  connected(isConnected: boolean): void;
  /** Nothing waits any more, and the last report said that something did. */
  emptied(): void;
}

/** The way to the console. Everything is allowed while offline; nothing here throws for being offline. */
export interface FleetLink {
  /** Begins to connect, and goes on for ever, with jittered backoff. */
  start(listener: FleetListener): void;
  /** The device's newest word on itself, retained by the broker; while offline only the last one is kept. */
  report(document: ReportedState): void;
  /** Says anew what the device is. */
  introduce(birth: Birth): void;
  /** Puts a message into the outbox; it is sent at least once, in order. */
  send(kind: 'event', document: DeviceEvent): void;
  send(kind: 'result', document: DeviceResult): void;
  /** In parts; a table that is longer than tables may be, or than the outbox can hold, is left out, with a warning. */
  send(kind: 'table', document: DeviceTable): void;
  outbox(): { messages: number; bytes: number; dropped: number };
  /** Says goodbye, waiting a little for what is under way. */
  close(): Promise<void>;
}

/** Float models on disk, by content. */
export interface ModelCache {
  /** Path of a complete, verified file, or null. */
  find(sha256: string): Promise<string | null>;
  /**
   * Downloads in verified chunks, resuming what an earlier attempt has got; answers the path. Fails with `download/failed`
   * (retryable), `download/mismatch` or `disk/full`; nothing unverified ever gets the final name.
   */
  fetch(ref: BlobRef, signal: AbortSignal, progress: (share: number) => void): Promise<string>;
  /** Deletes every model, and every partial download, that is not named. */
  retain(sha256: ReadonlySet<string>): Promise<void>;
}

/** Folders of finished artifacts, by content key, and the links by which applications find the active one. */
export interface ArtifactStore {
  /** A folder to make an artifact in, empty; what an earlier attempt has left is gone. */
  begin(key: string): Promise<string>;
  /** Makes the begun folder durable and gives it its name, whole or not at all. */
  finish(key: string): Promise<void>;
  /** Path of a finished folder, or null. */
  find(key: string): Promise<string | null>;
  /** The `report.json` of a finished folder; null where there is no such folder, or it is damaged. */
  report(key: string): Promise<QuantizeDocument | null>;
  /** The `table.json` of a finished folder; null where there is none. */
  table(key: string): Promise<ModelTable | null>;
  /** Key that a link of a target points at, or null. */
  linked(target: string, role: SlotRole): Promise<string | null>;
  /** Points a link at an artifact (null: removes it), atomically and durably. */
  link(target: string, role: SlotRole, key: string | null): Promise<void>;
  /** Deletes every artifact that neither a link nor the set names. */
  retain(keys: ReadonlySet<string>): Promise<void>;
}

/** `active`: what applications use; `previous`: the last confirmed one before it. */
export type SlotRole = 'active' | 'previous';

/** What a model is asked: its input tensor, or a sample as it lies in a file, which is prepared as the model card says. */
export type InferRequest =
  | { readonly kind: 'tensor'; readonly data: Float32Array }
  | { readonly kind: 'file'; readonly type: SampleType; readonly bytes: Uint8Array };

/** Kinds of sample files, by their extensions. */
export type SampleType = 'jpg' | 'png' | 'npy';

/** What a model answers. */
export interface InferAnswer {
  readonly outputs: ReadonlyMap<string, Feed>;
  /** Of the model alone, without decoding and the ways between processes; NaN where the target counts no time. */
  readonly latencyMs: number;
}

/** A process that holds a model ready to answer. */
export interface ModelRunner {
  /** Fails with `infer/invalid` for what does not fit the model, with `target/failed` when the model or its process fails. */
  infer(request: InferRequest): Promise<InferAnswer>;
  /**
   * Runs the model on sample `index` (modulo their number) of a sample set, on noise where there is none, and answers the time;
   * fails with `target/failed` when an output is not finite.
   */
  probe(samplesFolder: string | null, index: number): Promise<{ latencyMs: number }>;
  /** Settled when the process has ended, whoever ended it, or what runs the model cannot be reached any more. */
  readonly ended: Promise<void>;
  close(): Promise<void>;
}

/** Starts runners. */
export interface RunnerHost {
  /**
   * Fails with `target/failed` when the artifact cannot be loaded.
   *
   * @param progress told the share of the artifact that was brought, where that takes long
   */
  open(folder: string, signal: AbortSignal, progress?: (share: number) => void): Promise<ModelRunner>;
  /** Of a target that keeps its model itself and starts with it, without this machine. */
  readonly slots?: TargetSlots;
}

/** What such a target keeps. Methods fail with `mcu/...`; folders are of artifacts that a runner was opened for. */
export interface TargetSlots {
  look(): Promise<SlotsView>;
  /** Makes an artifact active there, on trial: a reset before `confirm` makes the one before active again. */
  activate(folder: string): Promise<void>;
  /** Ends a trial well. */
  confirm(folder: string): Promise<void>;
  /** Ends a trial, if there is one: the one before is active again. */
  revert(): Promise<void>;
  /** Calls back when nothing is known of the target any more: it cannot be reached, was reset, or was used by others. */
  onLost(listener: (why: string) => void): void;
}

/** A target that keeps its model, as it says itself. */
export interface SlotsView {
  readonly identity: TargetIdentity;
  /** sha256 of the active artifact; null: none. */
  readonly active: string | null;
  readonly isOnTrial: boolean;
  /** Why it started last. */
  readonly lastStart: 'power' | 'requested' | 'fault' | 'watchdog';
}

/** Frames that applications hand over, for calibration and verification; they never leave the device. */
export interface SampleKeeper {
  /** Keeps a frame; the oldest ones give way at the caps on number and bytes. Fails with `disk/full` or `samples/unreadable`. */
  add(target: string, type: SampleType, bytes: Uint8Array): Promise<void>;
  /** The samples to use for a new model: the configured folder, else a snapshot of the kept frames, else null. */
  choose(target: string): Promise<ChosenSamples | null>;
  /** Deletes every snapshot that is not named. */
  retain(folders: ReadonlySet<string>): Promise<void>;
}

/** A sample set that does not change, with a digest that tells it from others. */
export interface ChosenSamples {
  readonly folder: string;
  readonly digest: string;
}

/** What is to be made. */
export interface MakeRequest {
  readonly target: string;
  readonly model: string;
  readonly release: Release;
  readonly budget: Budget;
  readonly samples: ChosenSamples | null;
  /** Empty folder for the artifact, `card.json`, `plan.json` and `report.json`; the report alone when no plan holds the budget. */
  readonly out: string;
}

/** Makes artifacts, in a process of their own: profile, calibrate, assess, plan, apply, verify. */
export interface Maker {
  /** Answers the `quantize --json` document. Aborting ends the process; its finished steps are kept. Fails with the job's EdgeError. */
  make(request: MakeRequest, signal: AbortSignal, progress: StepProgress): Promise<QuantizeDocument>;
}

/** A maintenance gate: something outside of quantd that says whether this is a good moment. */
export interface Gate {
  readonly policy: GatePolicy;
  /**
   * What it says now. Never fails: what cannot be read is told as that.
   *
   * @param isFresh nothing that is remembered from earlier will do
   */
  read(isFresh: boolean): Promise<GateReading>;
  close(): Promise<void>;
}

/** Small durable state of the daemon: JSON values by key. */
export interface KeyValues {
  /** null where there is none. */
  read(key: string): unknown;
  /** Writes all or nothing, durably; null deletes. Fails with `disk/full` or `store/unwritable`. */
  write(changes: ReadonlyMap<string, unknown>): void;
  /** Keys that begin with the prefix. */
  keys(prefix: string): string[];
  close(): void;
}

/** Time as the daemon uses it. */
export interface DaemonClock {
  /** ISO 8601, UTC; may jump. */
  now(): string;
  /** Milliseconds that never run backwards, from any origin. */
  monotonicMs(): number;
  /** Resolves after the time, or at once when the signal aborts. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** Where the daemon says what happens, for the journal. Never a secret, never a sample. */
export interface Log {
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
}

/** What the daemon was asked for, as it was accepted; one a target. */
export interface Goal {
  readonly target: string;
  /** The generation that last changed this target. */
  readonly generation: number;
  readonly wanted: DesiredState['targets'][string];
  /** Folder of samples to calibrate and verify with, chosen when the model was first wanted; null: data-free. */
  readonly samples: ChosenSamples | null;
  /** ISO 8601. */
  readonly acceptedAt: string;
}

/** A goal that could not be reached and is not tried again; everything a person needs to know of it. */
export interface Failure {
  readonly target: string;
  readonly key: string;
  readonly generation: number;
  readonly step: DeviceStep;
  readonly code: string;
  readonly message: string;
  readonly subject: string;
  readonly hint: string;
  readonly attempts: number;
  readonly at: string;
}
