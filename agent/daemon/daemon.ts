/**
 * The loop of the device: takes what the console wants, does the next step towards it, and says what came of it.
 *
 * INVARIANTS
 * 1. One step at a time. What to do next follows from what is on disk alone (core/reconcile.ts), never from what was done before.
 * 2. Nothing that fails here ends the process or touches what is active, but a failed `confirm`, which takes it back.
 * 3. Nothing heavy runs in this process: downloads stream, models and planning live in processes of their own.
 * 4. Offline is ordinary: the last accepted document stands until another comes.
 * 5. Maintenance gates hold back what is new, never the proof of what is active nor the way back.
 */
import type { DesiredState, ReportedState, StepReport } from '../../configs/contracts/device.js';
import { EdgeError, type ErrorCode } from '../../configs/contracts/errors.js';
import { type DeviceStep, heldStep, nextStep } from '../core/reconcile.js';
import type { Failure, Gate, Goal, InferRequest, SampleKeeper, SampleType } from '../device-ports.js';
import { canonical } from '../digest.js';
import { collect } from './collect.js';
import { parseDesired } from './desired.js';
import { GateKeeper, type GateView } from './gates.js';
import { type Statement, statement } from './report.js';
import { type Moment, Reporter } from './reporter.js';
import { type ServedAnswer, Serving } from './serving.js';
import { SlotTarget } from './slots.js';
import { startServing } from './start-serving.js';
import { type DaemonTarget, goalKeyOf, stateOf } from './state.js';
import { type ConfirmOptions, executors, failureOf, type StepContext, type StepPorts } from './steps.js';

/** What the daemon is told at its start. */
export interface DaemonOptions {
  readonly device: string;
  readonly session: number;
  readonly targets: readonly DaemonTarget[];
  /** Version of everything that decides what an artifact looks like: with another, artifacts are made again. */
  readonly algorithm: string;
  readonly confirm: ConfirmOptions;
  /** Delays between tries of a step, in milliseconds: the first, and the longest. */
  readonly backoff: { readonly firstMs: number; readonly mostMs: number };
  /** How long the maintenance gates must have been open before what they held back begins. */
  readonly gateOpenSeconds: number;
}

/** The ports of the steps, and what only the loop needs. */
export interface DaemonPorts extends StepPorts {
  readonly samples: SampleKeeper;
  readonly gates: readonly Gate[];
  /** Uniform in [0, 1). */
  readonly random: () => number;
}

/** Errors that pass by themselves, sooner or later, however often they come back. */
const patient: ReadonlySet<string> = new Set<ErrorCode>([
  'disk/full',
  'store/unwritable',
  'measure/busy',
  'download/failed',
  'download/mismatch',
  'mcu/unreachable',
  'mcu/timeout',
  'mcu/trial-ended',
]);
/** What a board that does not answer fails with. */
const ofSilence: ReadonlySet<string> = new Set<ErrorCode>(['mcu/unreachable', 'mcu/timeout']);
/** A board that answers again is noticed after so long at most. */
const boardAgainMs = 5000;
/** Errors for which deleting something may be all that is needed; a worker's database does not tell a full disk apart. */
const ofDisk: ReadonlySet<string> = new Set<ErrorCode>(['disk/full', 'store/unwritable']);
/** Any other retryable error counts as final after so many tries. */
const mostAttempts = 5;
/** Reports of progress are sent no more often than this. */
const reportEveryMs = 500;
/** How soon a document that could not be taken over for want of space is looked at again. */
const acceptAgainMs = 5000;

type ActiveListener = (change: { target: string; artifact: string }) => void;

interface Task {
  readonly target: DaemonTarget;
  readonly step: DeviceStep;
  readonly goal: Goal | null;
  readonly goalKey: string | null;
  readonly activeKey: string | null;
  /** What a `revert` would bring back. */
  readonly previousKey: string | null;
}

/** See the head of this file. */
export class Daemon {
  readonly #options: DaemonOptions;
  readonly #ports: DaemonPorts;
  readonly #reporter: Reporter;
  readonly #stop = new AbortController();
  readonly #serving: ReadonlyMap<string, Serving>;
  readonly #gates: GateKeeper;
  /** Monotonic times at which a target's step may be tried again. */
  readonly #notBefore = new Map<string, number>();
  readonly #acceptedMs = new Map<string, number>();
  readonly #steps = new Map<string, StepReport>();
  /** Failures that may pass, by target: shown, not remembered. */
  readonly #troubles = new Map<string, Failure>();
  #refusal: Statement | null = null;
  #running: { task: Task; abort: AbortController } | null = null;
  /** Whose step was the last that ran. */
  #lastTarget: string | null = null;
  /** Aborted when there may be something new to do. */
  #wake = new AbortController();
  #accepting: Promise<void> = Promise.resolve();
  readonly #activeListeners = new Set<ActiveListener>();
  #sequence = 0;
  #eventSequence = 0;
  /** Something has changed since the last report was begun. */
  #isReportWanted = false;
  #reportDue: Promise<void> | null = null;
  /** A document that could not be taken over waits to be looked at again; a newer one takes its place. */
  #waitingDocument: Uint8Array | null = null;
  /** Active models that could not be loaded at the start, and are tried again. */
  readonly #reloading: Promise<void>[] = [];

  constructor(options: DaemonOptions, ports: DaemonPorts) {
    this.#options = options;
    this.#ports = ports;
    this.#reporter = new Reporter(options, ports);
    this.#serving = new Map(options.targets.map(({ id, runners }) => [id, new Serving(runners, ports.log)]));
    this.#gates = new GateKeeper(options.gateOpenSeconds, ports, () => this.#gatesChanged());
  }

  /** Runs until `stop`. Resolves when everything that was under way has ended. */
  async run(): Promise<void> {
    const { signal } = this.#stop;
    this.#refusal = this.#ports.memory.refusal;
    await Promise.all(this.#options.targets.map((target) => this.#serveAtStart(target)));
    this.#ports.link.start({
      desired: (payload) => this.#receive(payload),
      connected: (isConnected) => {
        this.#ports.log.info({ isConnected }, isConnected ? 'connected to the console' : 'offline');
        if (isConnected) this.#reportSoon();
      },
      emptied: () => this.#reportSoon(),
    });
    this.#reportSoon();
    this.#gates.start(signal);
    while (!signal.aborted) {
      // Anew before every look: what changes during the look wakes the sleep after it.
      this.#wake = new AbortController();
      const task = await this.#nextTask();
      if (task === null) await this.#ports.clock.sleep(this.#idleMs(), AbortSignal.any([signal, this.#wake.signal]));
      else await this.#execute(task);
    }
    await this.#accepting;
    await this.#reportDue;
    await Promise.all(this.#reloading);
    await Promise.all([...this.#serving.values()].map((serving) => serving.stop()));
    await this.#gates.close();
    await this.#ports.link.close();
  }

  /** Ends `run`: the step under way is aborted and resumed by the next start. */
  stop(): void {
    this.#stop.abort();
    this.#running?.abort.abort();
    this.#wake.abort();
  }

  /** Whether the daemon can do its work: its state can be read, and it was not told to stop. What a watchdog is to be told. */
  isHealthy(): boolean {
    try {
      return this.#ports.memory.observedGeneration >= 0 && !this.#stop.signal.aborted;
    } catch {
      return false;
    }
  }

  /** Answers a request with the active model of a target. Fails with `infer/unavailable`, `infer/invalid` or `target/failed`. */
  async infer(target: string, request: InferRequest): Promise<ServedAnswer> {
    const answer = await this.#servingOf(target).infer(request, this.#stop.signal);
    if (answer === null) {
      throw new EdgeError('infer/unavailable', `no model is active on target ${target}`, { subject: target });
    }
    return answer;
  }

  /** Keeps a frame of an application for calibration and verification. Fails as `SampleKeeper.add` does. */
  async addSample(target: string, type: SampleType, bytes: Uint8Array): Promise<void> {
    this.#servingOf(target);
    await this.#ports.samples.add(target, type, bytes);
  }

  /** Calls back whenever another artifact serves a target; answers how to stop that. */
  onActive(listener: ActiveListener): () => void {
    this.#activeListeners.add(listener);
    return () => this.#activeListeners.delete(listener);
  }

  /** What was last reported, or would have been. */
  async status(): Promise<ReportedState> {
    return this.#reporter.view(this.#moment());
  }

  /** The maintenance gates as they are now; none where none is configured. */
  gates(): Promise<GateView[]> {
    return this.#gates.views();
  }

  /** Work that must not go on is stopped: its finished parts are kept. */
  #gatesChanged(): void {
    if (this.#running?.task.step === 'quantize' && !this.#gates.decision().mayWork) this.#running.abort.abort();
    this.#wake.abort();
    this.#reportSoon();
  }

  #servingOf(target: string): Serving {
    const serving = this.#serving.get(target);
    if (serving !== undefined) return serving;
    throw new EdgeError('target/unknown', `this device has no target ${target}`, {
      subject: target,
      hint: `Targets: ${[...this.#serving.keys()].join(', ')}.`,
    });
  }

  /** Whether a model is loaded that answers for a target. */
  isServing(target: string): boolean {
    return this.#servingOf(target).key !== null;
  }

  async #serveAtStart(target: DaemonTarget): Promise<void> {
    // What a target keeps itself is the first thing that is looked at.
    if (target instanceof SlotTarget) return target.runners.slots.onLost((why) => this.#lost(target, why));
    const pauseMs = (attempt: number) => this.#pauseMs(attempt);
    const options = { pauseMs, served: () => this.#tellActive(target.id) };
    const serving = this.#serving.get(target.id)!;
    const started = await startServing(target, serving, this.#ports, options, this.#stop.signal);
    if (started !== null) this.#reloading.push(started.later);
  }

  #lost(target: SlotTarget, why: string): void {
    this.#ports.log.info({ target: target.id }, `nothing is known of the target any more: ${why}`);
    target.unsettle();
    this.#wake.abort();
  }

  /**
   * A step that may be done now. What decides about something that is active already goes before all that is new, on whatever target; but a step
   * that has failed waits for its turn like any other: targets follow each other, so that none that is silent keeps the rest waiting.
   */
  async #nextTask(): Promise<Task | null> {
    let isHeld = false;
    let ordinary: Task | null = null;
    const { targets } = this.#options;
    const first = targets.findIndex(({ id }) => id === this.#lastTarget) + 1;
    for (const target of [...targets.slice(first), ...targets.slice(0, first)]) {
      const isPaused = (this.#notBefore.get(target.id) ?? 0) > this.#ports.clock.monotonicMs();
      // What waits to be fetched again, say, is no reason not to look at a board that has come back.
      if (isPaused && (target.isSettled || this.#troubles.get(target.id)?.step === 'settle')) continue;
      try {
        const { goal, goalKey, have } = await stateOf(target, this.#options.algorithm, this.#ports);
        this.#forgetTrialsOf(target, have.failed);
        const allowed = this.#gates.decision();
        const step = nextStep(goalKey, have, allowed);
        const [activeKey, previousKey] = [have.active?.key ?? null, have.previous];
        isHeld ||= heldStep(goalKey, have, allowed) !== null;
        if (step !== null || isHeld) this.#gates.attend(true);
        if (step === null) continue;
        const task = { target, step, goal, goalKey, activeKey, previousKey };
        if (isAboutActive(step) && this.#troubles.get(target.id)?.step !== step) return task;
        ordinary ??= task;
      } catch (error) {
        this.#ports.log.warn({ target: target.id, error: String(error) }, 'the state of a target cannot be read');
        this.#delay(target.id, mostAttempts);
      }
    }
    if (ordinary === null) this.#gates.attend(isHeld);
    return ordinary;
  }

  /** What was in the way of a trial is over where the trial is: that it has failed is told for itself. */
  #forgetTrialsOf({ id }: DaemonTarget, failed: ReadonlySet<string>): void {
    const trouble = this.#troubles.get(id);
    if (trouble?.step !== 'confirm' || !failed.has(trouble.key)) return;
    this.#troubles.delete(id);
    this.#reportSoon();
  }

  #idleMs(): number {
    const now = this.#ports.clock.monotonicMs();
    const waits = [...this.#notBefore.values()].map((time) => time - now).filter((wait) => wait > 0);
    return Math.min(60_000, ...waits);
  }

  async #execute(task: Task): Promise<void> {
    const { log } = this.#ports;
    const { target, step } = task;
    // Between the look at the world and now, another document may have come: then it is looked at again.
    if (!this.#isStillWanted(task)) return;
    this.#lastTarget = target.id;
    const abort = new AbortController();
    this.#running = { task, abort };
    const servedBefore = this.#serving.get(target.id)!.key;
    this.#steps.set(target.id, { name: step, share: 0, text: '' });
    this.#reportSoon();
    const { generation, wanted } = task.goal ?? {};
    log.info({ target: target.id, step, generation, release: wanted?.release.id }, 'step begins');
    try {
      await executors[step](this.#contextOf(task), this.#ports, abort.signal);
      const trouble = this.#troubles.get(target.id);
      if (isOver(trouble, step)) this.#troubles.delete(target.id);
      if (step !== 'settle' || trouble?.step === 'settle') this.#notBefore.delete(target.id);
      log.info({ target: target.id, step, generation }, 'step done');
      if (step === 'confirm' || step === 'revert' || step === 'publish') await this.#collect();
    } catch (error) {
      // A board that was lost may have been brought down by the model; one that only did not answer in time was not.
      const isOfLine = error instanceof EdgeError && error.code === 'mcu/timeout';
      if (abort.signal.aborted || isOfLine) this.#forgetInterruption(task);
      if (!abort.signal.aborted) await this.#fail(task, error);
    } finally {
      this.#running = null;
      // Even where the step failed after it.
      if (this.#serving.get(target.id)!.key !== servedBefore) this.#tellActive(target.id);
      this.#steps.delete(target.id);
      this.#reportSoon();
    }
  }

  #tellActive(target: string): void {
    const artifact = this.#serving.get(target)!.key;
    if (artifact !== null) for (const listener of this.#activeListeners) listener({ target, artifact });
  }

  /** A step that was stopped in order, or by a line that loses much, says nothing of the model. */
  #forgetInterruption({ target, step, activeKey }: Task): void {
    try {
      if (step === 'confirm') this.#ports.memory.setBakes(target.id, activeKey!, 0);
    } catch (error) {
      this.#ports.log.warn({ target: target.id, error: String(error) }, 'the state could not be written');
    }
  }

  #isStillWanted({ target, goal, step }: Task): boolean {
    if (isAboutActive(step)) return true;
    try {
      return this.#ports.memory.goal(target.id)?.generation === goal?.generation;
    } catch {
      return true;
    }
  }

  async #fail(task: Task, error: unknown): Promise<void> {
    // Where it stopped halfway is found out by looking; who is lent the line says so for itself.
    if (task.target instanceof SlotTarget && (isAboutActive(task.step) || task.step === 'activate'))
      task.target.unsettle();
    try {
      this.#handleFailure(task, error);
    } catch (cause) {
      this.#ports.log.warn({ target: task.target.id, error: String(cause) }, 'the state of a target cannot be read');
      this.#delay(task.target.id, mostAttempts);
    }
    // What nobody needs any more may be all the space that is missing.
    if (error instanceof EdgeError && ofDisk.has(error.code)) await this.#collect();
  }

  #handleFailure(task: Task, error: unknown): void {
    const { memory, log, clock } = this.#ports;
    const { target, step } = task;
    const key = (isAboutActive(step) ? task.activeKey : task.goalKey) ?? '';
    const previous = this.#troubles.get(target.id);
    const attempts = previous?.step === step && previous.key === key ? previous.attempts + 1 : 1;
    const generation = task.goal?.generation ?? memory.observedGeneration;
    const failure = failureOf(error, { target: target.id, key, generation, step, attempts, at: clock.now() });
    log.warn({ target: target.id, step, code: failure.code, subject: failure.subject, attempts }, failure.message);
    // What failed for a goal that was replaced meanwhile says nothing about the new one.
    if (!isAboutActive(step) && memory.goal(target.id)?.generation !== task.goal?.generation) return;
    const isRetryable = !(error instanceof EdgeError) || error.retryable;
    const isFinal = !isRetryable || (!patient.has(failure.code) && attempts >= mostAttempts);
    this.#troubles.set(target.id, failure);
    // Taking back must succeed in the end: it is tried for ever, but not with what cannot be loaded. Looking, too.
    const isHopeless = step === 'revert' && isFinal && task.previousKey !== null;
    if (!isHopeless && (!isFinal || step === 'settle' || step === 'revert' || step === 'publish')) {
      this.#delay(target.id, attempts, ofSilence.has(failure.code) ? boardAgainMs : undefined);
      return;
    }
    try {
      memory.fail(isHopeless ? { ...failure, key: task.previousKey! } : failure);
      this.#troubles.delete(target.id);
      this.#event(target.id, 'failed', `${failure.code}: ${failure.message}`);
    } catch (cause) {
      log.warn(
        { target: target.id, error: String(cause) },
        'the failure could not be written down; the step is tried again',
      );
      this.#delay(target.id, attempts);
    }
  }

  /** Full jitter, so that many devices do not come back at once. */
  #delay(target: string, attempts: number, atMostMs = Number.POSITIVE_INFINITY): void {
    this.#notBefore.set(target, this.#ports.clock.monotonicMs() + Math.min(atMostMs, this.#pauseMs(attempts)));
  }

  #pauseMs(attempts: number): number {
    const { firstMs, mostMs } = this.#options.backoff;
    const most = Math.min(mostMs, firstMs * 2 ** Math.min(20, attempts - 1));
    return most * (0.5 + 0.5 * this.#ports.random());
  }

  #contextOf({ target, goal, goalKey, activeKey }: Task): StepContext {
    return {
      device: this.#options.device,
      target: target.id,
      goal,
      goalKey,
      activeKey,
      serving: this.#serving.get(target.id)!,
      runners: target.runners,
      keeper: target instanceof SlotTarget ? target : null,
      confirm: this.#options.confirm,
      progress: (step) => {
        this.#steps.set(target.id, { ...step, text: step.text.slice(0, 200) });
        this.#reportSoon();
      },
      event: (type, message) => this.#event(target.id, type, message),
      mayActivate: () => this.#gates.mayActivateNow(),
      acceptedMs: this.#acceptedMs.get(target.id) ?? null,
    };
  }

  /** In turn with documents: one that is being taken over may just have chosen its samples, and not be remembered yet. */
  async #collect(): Promise<void> {
    this.#accepting = this.#accepting.then(() => collect(this.#options, this.#ports));
    await this.#accepting;
  }

  #moment(): Moment {
    const [steps, troubles, refusal] = [this.#steps, this.#troubles, this.#refusal];
    return { sequence: this.#sequence, steps, troubles, refusal, allowed: this.#gates.decision() };
  }

  /** A document from the link. They are taken one after the other, without holding up the loop. */
  #receive(payload: Uint8Array): void {
    this.#accepting = this.#accepting.then(() => this.#accept(payload));
  }

  async #accept(payload: Uint8Array): Promise<void> {
    const { log, memory } = this.#ports;
    try {
      const document = parseDesired(payload, this.#options.device);
      const observed = memory.observedGeneration;
      if (document.generation <= observed) {
        // The console has said again what holds: what was refused between says nothing any more.
        if (document.generation === observed) this.#refusal = memory.refusal;
        this.#reportSoon();
        return;
      }
      const { changed, refusals } = await this.#goalsOf(document);
      const forgotten = changed.flatMap((goal) => {
        const { identity } = this.#options.targets.find(({ id }) => id === goal.target)!;
        // Of a target that nobody has seen, nothing has failed.
        if (identity === null) return [];
        return [{ target: goal.target, key: goalKeyOf(goal, identity, this.#options.algorithm) }];
      });
      memory.accept(document, changed, forgotten, refusals[0] ?? null);
      this.#refusal = refusals[0] ?? null;
      for (const goal of changed) {
        this.#acceptedMs.set(goal.target, this.#ports.clock.monotonicMs());
        this.#notBefore.delete(goal.target);
        this.#troubles.delete(goal.target);
      }
      const changes = changed.map(({ target, wanted }) => `${target}: ${wanted.release.id}`).join(', ');
      this.#event(null, 'accepted', `generation ${document.generation}${changes === '' ? '' : ` (${changes})`}`);
      this.#abortIfUnwanted(changed);
      this.#wake.abort();
    } catch (error) {
      const { code, message } = failureOf(error, nowhere);
      log.warn({ code }, `a desired document was refused: ${message}`);
      this.#refusal = statement(null, 'Accepted', false, code, message);
      if (patient.has(code)) this.#receiveAgain(payload);
    }
    this.#reportSoon();
  }

  #receiveAgain(payload: Uint8Array): void {
    const isWaiting = this.#waitingDocument !== null;
    this.#waitingDocument = payload;
    if (isWaiting) return;
    void this.#ports.clock.sleep(acceptAgainMs, this.#stop.signal).then(() => {
      const document = this.#waitingDocument!;
      this.#waitingDocument = null;
      if (!this.#stop.signal.aborted) this.#receive(document);
    });
  }

  /** The goals that a document changes, with the samples that each will use, and what of it cannot be done here. */
  async #goalsOf(document: DesiredState): Promise<{ changed: Goal[]; refusals: Statement[] }> {
    const { memory, samples, clock } = this.#ports;
    const changed: Goal[] = [];
    const refusals: Statement[] = [];
    for (const [id, wanted] of Object.entries(document.targets)) {
      const target = this.#options.targets.find((candidate) => candidate.id === id);
      const kinds = wanted.release.targetKinds;
      if (target === undefined || (kinds !== undefined && !kinds.includes(target.kind))) {
        const why = target === undefined ? `has no target ${id}` : `target ${id} is of kind ${target.kind}`;
        refusals.push(statement(null, 'Accepted', false, 'target/unknown', `${wanted.release.id}: this device ${why}`));
        continue;
      }
      const old = memory.goal(id);
      if (old !== null && canonical(old.wanted) === canonical(wanted)) continue;
      // With the same model, the samples stay: what was measured on them need not be measured again.
      const isSameModel =
        old !== null &&
        old.wanted.release.model.sha256 === wanted.release.model.sha256 &&
        canonical(old.wanted.release.card) === canonical(wanted.release.card);
      const chosen = isSameModel ? old.samples : await samples.choose(id);
      changed.push({ target: id, generation: document.generation, wanted, samples: chosen, acceptedAt: clock.now() });
    }
    return { changed, refusals };
  }

  /** What is being fetched, made or brought for a goal that has just been replaced is stopped. */
  #abortIfUnwanted(changed: readonly Goal[]): void {
    if (this.#running === null) return;
    const { task, abort } = this.#running;
    const goal = changed.find(({ target }) => target === task.target.id);
    const isLong = task.step === 'quantize' || task.step === 'fetch' || task.step === 'activate';
    if (goal === undefined || !isLong) return;
    const isStillUseful =
      task.step === 'fetch' && task.goal!.wanted.release.model.sha256 === goal.wanted.release.model.sha256;
    if (!isStillUseful) abort.abort();
  }

  #event(target: string | null, type: string, message: string): void {
    const { link, clock, memory, log } = this.#ports;
    const { device, session } = this.#options;
    try {
      link.send('event', {
        schema: 'quantd/event/1',
        device,
        session,
        sequence: ++this.#eventSequence,
        target,
        type,
        message: message.slice(0, 2000),
        generation: memory.observedGeneration,
        time: clock.now(),
      });
    } catch (error) {
      // Events are for people; work goes on without them.
      log.warn({ type, error: String(error) }, 'an event could not be kept');
    }
  }

  /** Sends a report soon: at once when none was sent lately, and never two of the same moment. */
  #reportSoon(): void {
    this.#isReportWanted = true;
    this.#reportDue ??= this.#reportWhileWanted().finally(() => {
      this.#reportDue = null;
    });
  }

  /** What changes while a report is put together is in the next one. */
  async #reportWhileWanted(): Promise<void> {
    while (this.#isReportWanted) await this.#reportNow();
  }

  async #reportNow(): Promise<void> {
    try {
      await this.#ports.clock.sleep(this.#sequence === 0 ? 0 : reportEveryMs, this.#stop.signal);
      this.#isReportWanted = false;
      this.#sequence++;
      this.#ports.link.report(await this.#reporter.reported(this.#moment()));
    } catch (error) {
      this.#ports.log.warn({ error: String(error) }, 'the report could not be put together');
    }
  }
}

/** Whether a step is about what a target has active, whatever is wanted of it. */
function isAboutActive(step: DeviceStep): boolean {
  return step === 'settle' || step === 'confirm' || step === 'revert';
}

/** Whether a step that succeeds says that what had failed is over: that a board is there says nothing of what failed on it. */
function isOver(trouble: Failure | undefined, done: DeviceStep): boolean {
  if (trouble?.code === 'mcu/trial-ended') return done === 'confirm';
  return done !== 'settle' || trouble?.step === 'settle';
}

const nowhere = { target: '', key: '', generation: 0, step: 'fetch', attempts: 0, at: '' } as const;
