/** The ports of the daemon: what its loop needs from the world beside those of the pipeline. Types only. */
import type { DesiredState, DeviceEvent, DeviceResult, ReportedState } from '../configs/contracts/device.js';
import type { BlobRef } from '../configs/contracts/release.js';
import type { Feed } from './ports.js';

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

/** Classes of messages: results outlive events when space is short. */
export type OutboxKind = 'event' | 'result';

/** What the link tells its owner. */
export interface FleetListener {
  /** A `desired` document as it came, not yet checked. Called again with the same after every connect. */
  desired(payload: Uint8Array): void;
  connected(isConnected: boolean): void;
}

/** The way to the console. Everything is allowed while offline; nothing here throws for being offline. */
export interface FleetLink {
  /** Begins to connect, and goes on for ever, with jittered backoff. */
  start(listener: FleetListener): void;
  /** The device's newest word on itself, retained by the broker; while offline only the last one is kept. */
  report(document: ReportedState): void;
  /** Puts an event or a result into the outbox; it is sent at least once, in order. */
  send(kind: 'event', document: DeviceEvent): void;
  send(kind: 'result', document: DeviceResult): void;
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
  /** Key that a link of a target points at, or null. */
  linked(target: string, role: SlotRole): Promise<string | null>;
  /** Points a link at an artifact (null: removes it), atomically and durably. */
  link(target: string, role: SlotRole, key: string | null): Promise<void>;
  /** Deletes every artifact that neither a link nor the set names. */
  retain(keys: ReadonlySet<string>): Promise<void>;
}

/** `active`: what applications use; `previous`: the last confirmed one before it. */
export type SlotRole = 'active' | 'previous';

/** A process that holds a model ready to answer. */
export interface ModelRunner {
  /** Answers all outputs for one input tensor, with the milliseconds the model took. Fails with `target/failed`. */
  infer(input: Float32Array): Promise<{ outputs: ReadonlyMap<string, Feed>; latencyMs: number }>;
  /** Settled when the process has ended, whoever ended it. */
  readonly ended: Promise<void>;
  close(): Promise<void>;
}

/** Starts runners. */
export interface RunnerHost {
  /** Fails with `target/failed` when the artifact cannot be loaded. */
  open(folder: string, signal: AbortSignal): Promise<ModelRunner>;
}

/** What the daemon was asked for, as it was accepted; one a target. */
export interface Goal {
  readonly target: string;
  /** The generation that last changed this target. */
  readonly generation: number;
  readonly wanted: DesiredState['targets'][string];
  /** Folder of samples to calibrate and verify with, chosen when the model was first wanted; null: data-free. */
  readonly samples: { readonly folder: string; readonly digest: string } | null;
  /** ISO 8601. */
  readonly acceptedAt: string;
}

/** A goal that could not be reached and is not tried again; everything a person needs to know of it. */
export interface Failure {
  readonly target: string;
  readonly key: string;
  readonly generation: number;
  readonly step: string;
  readonly code: string;
  readonly message: string;
  readonly subject: string;
  readonly hint: string;
  readonly attempts: number;
  readonly at: string;
}
