/**
 * Targets that keep their model themselves, and start with it without this machine: microcontrollers. What they keep has to be what is linked
 * here, or else one of the two is mended; that is done whenever such a target was reached anew, before anything else.
 */
import { EdgeError } from '../../configs/contracts/errors.js';
import type { RunnerHost, SlotsView, TargetSlots } from '../device-ports.js';
import { canonical } from '../digest.js';
import type { TargetIdentity } from '../ports.js';
import type { Memory } from './memory.js';
import { hasEnded } from './serving.js';
import type { DaemonTarget } from './state.js';
import type { StepContext, StepPorts } from './steps.js';

/** A host of runners whose target keeps its model itself. */
export type SlotRunners = RunnerHost & { readonly slots: TargetSlots };

/** See the head of this file. */
export class SlotTarget implements DaemonTarget {
  readonly id: string;
  readonly kind = 'mcu';
  readonly runners: SlotRunners;
  readonly #memory: Memory;
  readonly #identified: () => void;
  #identity: TargetIdentity | null;
  #isSettled = false;
  #losses = 0;

  /**
   * @param memory knows who the target was when it was last reached
   * @param identified called when that has changed
   */
  constructor(id: string, runners: SlotRunners, memory: Memory, identified: () => void) {
    this.id = id;
    this.runners = runners;
    this.#memory = memory;
    this.#identified = identified;
    this.#identity = memory.identity(id);
  }

  /** As it was when it was last reached; null: never yet. */
  get identity(): TargetIdentity | null {
    return this.#identity;
  }

  /** What it keeps is what is linked, and it has been there ever since that was seen. */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** How often `unsettle` was called: what was begun before says nothing after. */
  get losses(): number {
    return this.#losses;
  }

  unsettle(): void {
    this.#isSettled = false;
    this.#losses++;
  }

  /** Fails as `Memory` does. */
  identify(identity: TargetIdentity): void {
    if (canonical(identity) === canonical(this.#identity)) return;
    this.#memory.setIdentity(this.id, identity);
    this.#identity = identity;
    this.#identified();
  }

  settled(losses: number): void {
    if (losses === this.#losses) this.#isSettled = true;
  }
}

/**
 * Brings what the target keeps and what is linked together. A trial that this daemon did not live to see begin is ended; one that a reset
 * has ended is told, and the link goes back, too; a proven model that is gone, as with another board of the same kind, is brought again.
 */
export async function settle(context: StepContext, ports: StepPorts, signal: AbortSignal): Promise<void> {
  const { target, serving, event } = context;
  const { artifacts, memory } = ports;
  const keeper = context.keeper!;
  const { runners } = keeper;
  const { losses } = keeper;
  let view = await runners.slots.look();
  keeper.identify(view.identity);
  const linked = await artifacts.linked(target, 'active');
  const document = linked === null ? null : await artifacts.report(linked);
  const sha256 = document?.artifact.sha256 ?? null;
  if (view.isOnTrial && view.active !== sha256) {
    // It is linked after the trial has begun: this one will never be.
    await runners.slots.revert();
    view = await runners.slots.look();
  }
  const isThere = sha256 !== null && view.active === sha256;
  const isProven = linked !== null && memory.isConfirmed(target, linked);
  if (linked !== null && !isThere && !isProven) return trialEnded(linked, view, context, ports);
  if (document !== null && !isThere && canonical(document.target.identity) !== canonical(view.identity)) {
    await artifacts.link(target, 'active', null);
    await artifacts.link(target, 'previous', null);
    await serving.stop();
    event('reverted', `the board is another one; nothing is active there, and a model is made for it`);
  } else if (linked !== null && !memory.failures(target).some(({ key }) => key === linked)) {
    // What has failed is not brought again: it is taken back next.
    await bringBack(linked, isThere, isProven, context, ports, signal);
  }
  keeper.settled(losses);
}

/**
 * Makes ready here what is linked, and active there where it is not. What is refused for good is told and serves nothing: whatever replaces it
 * or takes it back must not have to wait for it. Fails as the line does.
 */
async function bringBack(
  linked: string,
  isThere: boolean,
  isProven: boolean,
  { target, serving, runners, event, progress }: StepContext,
  { artifacts, memory, log }: StepPorts,
  signal: AbortSignal,
): Promise<void> {
  const release = memory.activation(target, linked)?.release ?? linked.slice(0, 12);
  try {
    const folder = (await artifacts.find(linked))!;
    const share = (done: number) => progress({ name: 'upload', share: done, text: release });
    if (serving.key !== linked || serving.runner === null || (await hasEnded(serving.runner)))
      serving.switchTo(linked, folder, await runners.open(folder, signal, share));
    if (!isThere) {
      await runners.slots!.activate(folder);
      event('restored', `the board had lost ${linked.slice(0, 12)}; it is active there again`);
    }
    // It has proved itself before: only the word of that is missing there.
    if (isProven) await runners.slots!.confirm(folder);
  } catch (error) {
    if (signal.aborted || !(error instanceof EdgeError) || isOfLine(error)) throw error;
    log.warn({ target, code: error.code, subject: error.subject }, error.message);
    await serving.stop();
    event('failed', `${release} is not served: ${error.code}: ${error.message}`);
  }
}

/** That a board cannot be reached, or that the process that keeps its line was started anew and holds no model, says nothing of one. */
export function isOfLine({ code, retryable }: EdgeError): boolean {
  return (code.startsWith('mcu/') && retryable) || code === 'infer/unavailable';
}

/**
 * A board goes back by itself, by a reset or as it was asked to; here, the link follows. What has failed, or fails by how the board was reset,
 * is done with; anything else is told by `mcu/trial-ended` until it is tried again.
 */
async function trialEnded(
  linked: string,
  { lastStart }: SlotsView,
  { target, goal, serving, event }: StepContext,
  { artifacts, memory, clock }: StepPorts,
): Promise<void> {
  const release = memory.activation(target, linked)?.release ?? linked.slice(0, 12);
  const previous = await artifacts.linked(target, 'previous');
  const back =
    previous === null
      ? 'nothing is active'
      : `${memory.activation(target, previous)?.release ?? previous} is active again`;
  const hasFailed = memory.failures(target).some(({ key }) => key === linked);
  const isToBlame = !hasFailed && (lastStart === 'fault' || lastStart === 'watchdog');
  const message = hasFailed
    ? `${release} was taken back; ${back}`
    : `the board was reset (${lastStart}) while ${release} was on trial; ${back}`;
  if (isToBlame) {
    const generation = goal?.generation ?? memory.observedGeneration;
    const hint = 'Change the release or the budget to try anew.';
    const where = { target, key: linked, generation, step: 'confirm', attempts: 1, at: clock.now() } as const;
    memory.fail({ ...where, code: 'confirm/failed', message, subject: release, hint });
  }
  await serving.stop();
  await artifacts.link(target, 'active', previous);
  await artifacts.link(target, 'previous', null);
  event('reverted', message);
  if (!hasFailed && !isToBlame) throw new EdgeError('mcu/trial-ended', message, { subject: release });
}
