/** The ports: what the agent's steps need from the world. Types only; adapters implement them, the entry points wire them. */
import type { WeightPacker } from '../configs/contracts/packing.js';
import type { Counter, LatencyRow, Precision } from '../configs/contracts/plan.js';
import type { RoundedLayer, RoundingLayer } from '../configs/contracts/rounding.js';
import type { DonorTable } from '../configs/contracts/tables.js';
import type { Room } from './core/image/room.js';
import type { Operator } from './core/onnx/model.js';
import type { LinearSolver } from './core/plan/linear-program.js';
import type { PreparedModel } from './core/prepare.js';

/** Values of one tensor. */
export interface Feed {
  readonly dims: readonly number[];
  readonly data: Float32Array | Uint8Array | Int8Array | Int32Array | BigInt64Array;
}

/** Values by graph input. */
export type Feeds = ReadonlyMap<string, Feed>;

/** A loaded model. Close it: its memory is not the garbage collector's. */
export interface Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  /** Runs once, off the main thread. Answers all outputs, or those named. Fails with `target/failed`. */
  run(feeds: Feeds, outputs?: readonly string[]): Promise<ReadonlyMap<string, Feed>>;
  close(): Promise<void>;
}

/** Executes float models, QDQ models and images exactly as deployed ones are. */
export interface Runtime {
  /** Fails with `target/failed` when the runtime rejects the model. */
  open(model: Uint8Array, options: { threads: number }): Promise<Session>;
}

/** What the measurements of a target depend on; two machines with equal identities may share tables. */
export interface TargetIdentity {
  readonly kind: string;
  /** CPU or SoC name. */
  readonly processor: string;
  readonly architecture: string;
  readonly cores: number;
  readonly threads: number;
  /** cpufreq governor and vendor power mode, 'unknown' where the system does not say. */
  readonly governor: string;
  readonly powerMode: string;
  /** Name and version of the runtime and of our measuring code. */
  readonly runtime: string;
  /** Vector extensions that choose kernels. */
  readonly features: readonly string[];
  /** What energy is read from; null where rows have none. */
  readonly energyMeter: string | null;
  /** Only of a microcontroller. */
  readonly board?: BoardFacts;
}

/** A microcontroller as its firmware describes it. */
export interface BoardFacts {
  readonly name: string;
  readonly core: string;
  /** 0: there is none, as of a process. */
  readonly clockHz: number;
  /** Of the chip, as `flashBytes` is. */
  readonly ramBytes: number;
  readonly flashBytes: number;
  /** RAM for a model: records, activations, scratch memory, floats of inputs and outputs. */
  readonly workspaceBytes: number;
  /** Room for one image in flash. */
  readonly slotBytes: number;
  /** Begin of the sha256 of what the firmware was built from. */
  readonly firmware: string;
}

/** Reads the energy that the machine, or the part of it with sensors, uses: everything that runs on it, idle power included. */
export interface EnergyMeter {
  /** What it reads, for reports: `RAPL package-0`, `INA3221 VDD_IN`. */
  readonly name: string;
  /** Begins a measurement; several may run at once. */
  start(): EnergyMeasurement;
}

/** A measurement that is going on. */
export interface EnergyMeasurement {
  /** Joules since the start; null where a sensor could not be read in between. To be called once. */
  stop(): number | null;
}

/** One timed model of an end-to-end comparison; times are in the target's counter. */
export interface Timing {
  readonly name: string;
  readonly minimum: number;
  readonly median: number;
  readonly samples: number;
}

/** An end-to-end comparison: one line per model, and the medians of the ratios to the first model, round by round. */
export interface Comparison {
  readonly timings: readonly Timing[];
  readonly ratios: readonly number[];
  /** Median time of the speed reference during the comparison; see `speedReferenceKey`. */
  readonly referenceLatency: number;
  readonly throttled: boolean;
}

/** A machine that can measure and run quantized models. */
export interface Target {
  readonly kind: 'ort' | 'native' | 'mcu';
  readonly counter: Counter;
  identity(): Promise<TargetIdentity>;
  /** Whether its 8-bit kernels sum pairs of products in 16 bits, where weights must be small for that to be exact, or fast. */
  saturates(): Promise<boolean>;
  /** Ceilings of every plan, whatever the budget; absent: there is room enough. */
  readonly room?: Room;
  /** Packs weights of images for this target; absent: it packs them itself, or runs no images. */
  readonly packer?: WeightPacker;
  /** Precisions at which this target can run an operator. */
  precisionsOf(prepared: PreparedModel, operator: Operator): readonly Precision[];
  /**
   * Times operators of a model at each precision they can have here, interleaved, and whatever else its plans will cost; rows as
   * core/latency.ts names them. Holds the host-wide measuring lock.
   *
   * @param effort `sample`: fewer repetitions, to check rows of others by; `full` when absent
   */
  measure(
    prepared: PreparedModel,
    operators: readonly Operator[],
    precisions: readonly Precision[],
    signal: AbortSignal,
    progress: Progress,
    effort?: Effort,
  ): Promise<LatencyRow[]>;
  /** Times whole models against each other, interleaved round by round where they share a machine with others; NaN for what cannot run there. */
  compare(
    models: readonly { name: string; bytes: Uint8Array }[],
    feeds: Feeds,
    signal: AbortSignal,
    progress: Progress,
  ): Promise<Comparison>;
}

/** How thoroughly something is timed. */
export type Effort = 'full' | 'sample';

/** Called with a share done in [0, 1] and what is being done. */
export type Progress = (share: number, text: string) => void;

/** Labelled or unlabelled samples as they lie on disk, decoded and preprocessed one at a time. */
export interface SampleSource {
  readonly count: number;
  /** Digest of the files and of the preprocessing. */
  readonly digest: string;
  /** Class of each sample, where labels.csv has them. */
  readonly labels: readonly number[] | null;
  read(index: number): Promise<Float32Array>;
}

/** Solves mixed-integer linear programmes off the main thread. */
export interface Solver extends LinearSolver {
  close(): Promise<void>;
}

/** Rounds one operator's weights to integers with regard to what it reads; heavy, off the main thread. */
export interface Rounder {
  round(layer: RoundingLayer, threads: number): Promise<RoundedLayer>;
}

/** What other devices with the same target identity have measured. */
export interface DonorTables {
  /** Chooses the rows that this device checks; devices differ in it, so that together they check all. */
  readonly seed: number;
  /**
   * Their rows of the given operator keys; null where there are none, or nobody answers within a few seconds. Never fails, but for the
   * signal.
   */
  offer(identityDigest: string, operatorKeys: readonly string[], signal: AbortSignal): Promise<DonorTable | null>;
}

/** Durable state: latency rows by target, and step results by content key. */
export interface Store {
  latencyRows(identityDigest: string, keys: readonly string[]): LatencyRow[];
  putLatencyRows(identityDigest: string, identity: TargetIdentity, rows: readonly LatencyRow[]): void;
  /** Forgets the rows of these keys that were taken from other devices. */
  dropDonorRows(identityDigest: string, keys: readonly string[]): void;
  /** The stored result of a step, or null. Results are JSON values, with typed arrays among them. */
  result(stepKey: string): unknown | null;
  putResult(stepKey: string, kind: string, result: unknown): void;
  close(): void;
}

/** The time, for durations and for dates. */
export interface Clock {
  /** Nanoseconds from a monotonic clock. */
  nanoseconds(): bigint;
  /** ISO 8601, UTC. */
  now(): string;
}
