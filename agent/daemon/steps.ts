/** How each step of a device is done. A step that is interrupted anywhere can be begun again. */
import { type DeviceEvent, packetBytes, type StepReport } from '../../configs/contracts/device.js';
import { EdgeError } from '../../configs/contracts/errors.js';
import type { DeviceStep } from '../core/reconcile.js';
import { median, quantile } from '../core/statistics.js';
import type {
  ArtifactStore,
  DaemonClock,
  Failure,
  FleetLink,
  Goal,
  Log,
  Maker,
  ModelCache,
  RunnerHost,
} from '../device-ports.js';
import { contentKey } from '../digest.js';
import type { StepSeconds } from '../pipeline.js';
import type { QuantizeDocument } from '../report.js';
import type { Memory } from './memory.js';
import { hasEnded, type Serving } from './serving.js';
import { isOfLine, type SlotTarget, settle } from './slots.js';

/** What the steps use. */
export interface StepPorts {
  readonly memory: Memory;
  readonly link: FleetLink;
  readonly models: ModelCache;
  readonly artifacts: ArtifactStore;
  readonly maker: Maker;
  readonly clock: DaemonClock;
  readonly log: Log;
}

/** How a new model proves itself. */
export interface ConfirmOptions {
  /** How long it has to answer probes. */
  readonly bakeSeconds: number;
  readonly probeEveryMs: number;
  /** A probe's median may be above the budget's latency by this factor: the machine also does other things. */
  readonly latencySlack: number;
  /** Bakes that may be cut off by a restart before the model counts as what brings the machine down. */
  readonly mostInterruptions: number;
}

/** One target, and what is wanted of it. */
export interface StepContext {
  readonly device: string;
  readonly target: string;
  /** Of the goal; null only for steps on what is active. */
  readonly goal: Goal | null;
  readonly goalKey: string | null;
  readonly activeKey: string | null;
  readonly serving: Serving;
  readonly runners: RunnerHost;
  /** The target, where it keeps its model itself. */
  readonly keeper: SlotTarget | null;
  readonly confirm: ConfirmOptions;
  readonly progress: (step: StepReport) => void;
  readonly event: (type: DeviceEvent['type'], message: string) => void;
  /** Asks the maintenance gates at this very moment. */
  readonly mayActivate: () => Promise<boolean>;
  /** Monotonic milliseconds at which the goal was accepted; null when that was before this start. */
  readonly acceptedMs: number | null;
}

type Executor = (context: StepContext, ports: StepPorts, signal: AbortSignal) => Promise<void>;

/** Room in a packet for what travels with a document. */
const besidesBytes = 8192;

/** Fewer probes tell no 95th percentile. */
const fewProbes = 20;

/** Order and rough share of the parts of `quantize`, for one progress bar. */
const quantizeParts: readonly (readonly [keyof StepSeconds, number])[] = [
  ['profile', 0.3],
  ['calibrate', 0.2],
  ['assess', 0.25],
  ['plan', 0.1],
  ['apply', 0.02],
  ['verify', 0.13],
];

/** The executors, by step. They fail with EdgeErrors; what to do about those is the loop's business. */
export const executors: Readonly<Record<DeviceStep, Executor>> = {
  settle,

  async fetch({ goal, progress, event }, { models }, signal) {
    const { release } = goal!.wanted;
    await models.fetch(release.model, signal, (share) => progress({ name: 'fetch', share, text: release.id }));
    event('fetched', `model of ${release.id}`);
  },

  async quantize({ goal, goalKey, target, progress, event }, { models, artifacts, maker, memory }, signal) {
    const { release, budget } = goal!.wanted;
    const model = await models.find(release.model.sha256);
    // Deleted behind our back: the next round fetches it again.
    if (model === null) return;
    const out = await artifacts.begin(goalKey!);
    signal.throwIfAborted();
    const request = { target, model, release, budget, samples: goal!.samples, out };
    const document = await maker.make(request, signal, (step, share, text) => {
      progress({ name: step, share: overallShare(step, share), text });
    });
    await artifacts.finish(goalKey!);
    memory.setTiming(target, { secondsToActive: null, hasReprofiled: document.profiledOperators > 0 });
    event(document.feasible ? 'quantized' : 'infeasible', describeOutcome(release.id, document));
  },

  async publish({ device, goal, goalKey, target }, { artifacts, memory, link, clock }) {
    const document = publishable((await artifacts.report(goalKey!))!);
    const { release, budget } = goal!.wanted;
    const content = { device, target, generation: goal!.generation, release: release.id, budget, document };
    const id = contentKey(content);
    // In this order: a restart in between sends it twice, under the same id.
    link.send('result', { schema: 'quantd/result/1', id, ...content, document: { ...document }, time: clock.now() });
    const table = await artifacts.table(goalKey!);
    if (table !== null) link.send('table', { ...table, device, target, time: clock.now() });
    memory.setPublished(target, goalKey!, id);
  },

  async activate(context, ports, signal) {
    const { goal, goalKey, activeKey, target, serving, runners, acceptedMs, event, progress, mayActivate } = context;
    const { artifacts, memory, clock, log } = ports;
    const folder = (await artifacts.find(goalKey!))!;
    const text = goal!.wanted.release.id;
    const runner = await runners.open(folder, signal, (share) => progress({ name: 'upload', share, text }));
    try {
      // Loading takes a while: somebody may have taken off meanwhile. Then it waits, as if it had not been begun.
      if (!(await mayActivate())) {
        log.info({ target, release: goal!.wanted.release.id }, 'a gate has closed before the new model could serve');
        return await runner.close();
      }
      // From here on it goes through; until here, something else may have come to be wanted.
      signal.throwIfAborted();
      if (activeKey !== null && memory.isConfirmed(target, activeKey))
        await artifacts.link(target, 'previous', activeKey);
      memory.setActivation(target, goalKey!, goal!.wanted.release.id, clock.now());
      // Before the link: where that says so, the trial has begun.
      await runners.slots?.activate(folder);
      await artifacts.link(target, 'active', goalKey!);
    } catch (error) {
      await runner.close();
      throw error;
    }
    serving.switchTo(goalKey!, folder, runner);
    const seconds = acceptedMs === null ? null : (clock.monotonicMs() - acceptedMs) / 1000;
    memory.setTiming(target, { ...memory.timing(target), secondsToActive: seconds });
    event('activated', goal!.wanted.release.id);
  },

  async confirm(context, { artifacts, memory, clock, log }, signal) {
    const { goal, goalKey, activeKey, target, serving, runners, confirm, progress, event } = context;
    const interruptions = memory.bakes(target, activeKey!);
    if (interruptions > confirm.mostInterruptions) {
      throw unfit(activeKey!, `${interruptions} times it was cut off while proving itself`);
    }
    memory.setBakes(target, activeKey!, interruptions + 1);
    const document = (await artifacts.report(activeKey!))!;
    // After a restart the goal may be another already, whose samples need not fit this model: then noise has to do.
    let samples = activeKey === goalKey ? (goal!.samples?.folder ?? null) : null;
    const times: number[] = [];
    const started = clock.monotonicMs();
    const elapsed = () => (clock.monotonicMs() - started) / 1000;
    do {
      const { runner, key } = serving;
      if (runner === null || key !== activeKey) await serveActive(activeKey!, serving, { artifacts, runners }, signal);
      const proving = serving.runner;
      try {
        times.push((await probe(serving, activeKey!, samples, times.length)).latencyMs);
      } catch (error) {
        // That samples are gone is not the model's fault.
        if (samples === null || !(error instanceof EdgeError) || !error.code.startsWith('samples/')) throw error;
        log.warn({ target, code: error.code }, `probing with noise: ${error.message}`);
        samples = null;
        times.push((await probe(serving, activeKey!, samples, times.length)).latencyMs);
      }
      progress({
        name: 'confirm',
        share: Math.min(1, elapsed() / confirm.bakeSeconds),
        text: `${times.length} probes`,
      });
      await clock.sleep(confirm.probeEveryMs, signal);
      signal.throwIfAborted();
      // Requests of applications start a dead runner again; here it counts all the same.
      if (serving.runner !== proving || (proving !== null && (await hasEnded(proving)))) {
        // A board that is gone or was reset says itself, when it is there again, whether that was the model.
        if (runners.slots !== undefined)
          throw new EdgeError('mcu/unreachable', 'the board was lost during the trial', { subject: target });
        throw unfit(activeKey!, 'its process ended');
      }
    } while (elapsed() < confirm.bakeSeconds);
    const ceiling = document.budget.latencyMs;
    // Where no time is counted, no budget can ask for one.
    const measured = median(times);
    if (ceiling !== undefined && measured > ceiling * confirm.latencySlack) {
      throw unfit(activeKey!, `it takes ${measured.toFixed(2)} ms where the budget allows ${ceiling} ms`);
    }
    await runners.slots?.confirm((await artifacts.find(activeKey!))!);
    const hasTimes = !Number.isNaN(measured);
    const p95Ms = times.length < fewProbes || !hasTimes ? null : quantile(times, 0.95);
    memory.confirm(target, activeKey!, clock.now(), p95Ms);
    event('confirmed', `${times.length} probes${hasTimes ? `, median ${measured.toFixed(2)} ms` : ''}`);
  },

  async revert({ activeKey, target, serving, runners, event }, { artifacts, memory }, signal) {
    const failed = new Set(memory.failures(target).map(({ key }) => key));
    const previous = await artifacts.linked(target, 'previous');
    const folder = previous === null || failed.has(previous) ? null : await artifacts.find(previous);
    await runners.slots?.revert();
    if (previous === null || folder === null) {
      await artifacts.link(target, 'active', null);
      await serving.stop();
    } else {
      const runner = await runners.open(folder, signal);
      try {
        await runners.slots?.activate(folder);
        await runners.slots?.confirm(folder);
        await artifacts.link(target, 'active', previous);
      } catch (error) {
        await runner.close();
        throw error;
      }
      serving.switchTo(previous, folder, runner);
    }
    await artifacts.link(target, 'previous', null);
    event('reverted', `${activeKey!.slice(0, 12)} was taken back${folder === null ? '; nothing is active' : ''}`);
  },
};

/** Loads what is active, where it is not loaded yet. Fails with `target/failed`. */
export async function serveActive(
  activeKey: string,
  serving: Serving,
  { artifacts, runners }: Pick<StepPorts, 'artifacts'> & { readonly runners: RunnerHost },
  signal: AbortSignal,
): Promise<void> {
  const folder = await artifacts.find(activeKey);
  if (folder === null || serving.key === activeKey) return;
  serving.switchTo(activeKey, folder, await runners.open(folder, signal));
}

async function probe(serving: Serving, key: string, samples: string | null, index: number) {
  try {
    return await serving.runner!.probe(samples, index);
  } catch (cause) {
    if (cause instanceof EdgeError && (cause.code.startsWith('samples/') || isOfLine(cause))) throw cause;
    // The runner is not started again here: that it failed under a probe is what was to be found out.
    throw unfit(key, cause instanceof Error ? cause.message : String(cause));
  }
}

/** The document as it can travel: of very large models, without the list of operators. */
function publishable(document: QuantizeDocument): QuantizeDocument {
  const bytes = new TextEncoder().encode(JSON.stringify(document)).length;
  if (document.plan === null || bytes <= packetBytes - besidesBytes) return document;
  return { ...document, plan: { ...document.plan, operators: [] } };
}

function unfit(key: string, why: string): EdgeError {
  return new EdgeError('confirm/failed', `the new model did not prove itself: ${why}`, { subject: key });
}

function overallShare(step: keyof StepSeconds, share: number): number {
  let done = 0;
  for (const [name, weight] of quantizeParts) {
    if (name === step) return Math.min(1, done + weight * share);
    done += weight;
  }
  return done;
}

function describeOutcome(release: string, document: QuantizeDocument): string {
  if (!document.feasible) return `${release}: no plan holds the budget`;
  const { measured, unit } = document.latency;
  return `${release}: ${measured} ${unit}, ${document.size.artifactBytes} bytes`;
}

/** A failure as it is remembered and reported. */
export function failureOf(
  error: unknown,
  where: { target: string; key: string; generation: number; step: DeviceStep; attempts: number; at: string },
): Failure {
  if (error instanceof EdgeError) {
    const { code, message, subject, hint } = error;
    return { ...where, code, message, subject, hint };
  }
  const message = error instanceof Error ? error.message.split('\n')[0]! : String(error);
  return {
    ...where,
    code: 'internal',
    message,
    subject: where.step,
    hint: 'This is a fault of quantd; the journal has more. Please report it.',
  };
}
