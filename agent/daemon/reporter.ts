import type { Condition, ReportedState, StepReport, TargetReport } from '../../configs/contracts/device.js';
import { describeReasons, type GateDecision } from '../core/gates/decide.js';
import { heldStep } from '../core/reconcile.js';
import type { Failure, FleetLink, Log, SlotRole } from '../device-ports.js';
import { canonical, contentKey } from '../digest.js';
import {
  artifactReport,
  failureStatement,
  frontierOf,
  profilingOf,
  type Statement,
  statement,
  withTimes,
} from './report.js';
import { type DaemonTarget, type StatePorts, stateOf, type TargetState } from './state.js';

/** What the reporter needs of the world. */
export interface ReporterPorts extends StatePorts {
  readonly link: FleetLink;
  readonly clock: { now(): string };
  readonly log: Log;
}

/** Whose words they are. */
export interface ReporterOptions {
  readonly device: string;
  readonly session: number;
  readonly targets: readonly DaemonTarget[];
  readonly algorithm: string;
}

/** What only the loop knows of this moment. */
export interface Moment {
  readonly sequence: number;
  /** Steps under way, by target. */
  readonly steps: ReadonlyMap<string, StepReport>;
  /** Failures that may pass, by target. */
  readonly troubles: ReadonlyMap<string, Failure>;
  /** Why the last document was not taken; null where it was. */
  readonly refusal: Statement | null;
  /** What the maintenance gates allow. */
  readonly allowed: GateDecision;
}

/** Puts the reported document together, from what is on disk and what goes on. */
export class Reporter {
  readonly #options: ReporterOptions;
  readonly #ports: ReporterPorts;

  constructor(options: ReporterOptions, ports: ReporterPorts) {
    this.#options = options;
    this.#ports = ports;
  }

  /** The document of this moment, to be reported: since when its conditions hold is remembered. One at a time. */
  async reported(moment: Moment): Promise<ReportedState> {
    const document = await this.view(moment);
    this.#keepConditions(document.conditions);
    return document;
  }

  /** The document of this moment, for whoever asks: nothing comes of it, however long it takes and whatever is reported meanwhile. */
  async view(moment: Moment): Promise<ReportedState> {
    const { memory, clock, link } = this.#ports;
    const { device, session, targets: ownTargets, algorithm } = this.#options;
    const { refusal, sequence } = moment;
    // Before anything that it is about is looked at: a document that comes meanwhile must not be answered with what holds of the one before.
    const { observedGeneration } = memory;
    const statements: Statement[] = refusal === null ? [] : [refusal];
    const targets: Record<string, TargetReport> = {};
    for (const target of ownTargets) {
      const state = await stateOf(target, algorithm, this.#ports);
      targets[target.id] = await this.#targetReport(target, state, moment);
      statements.push(...this.#statementsOf(target, state, moment));
    }
    if (refusal === null && observedGeneration > 0) {
      statements.unshift(statement(null, 'Accepted', true, 'accepted', `generation ${observedGeneration}`));
    }
    return {
      schema: 'quantd/reported/1',
      device,
      session,
      sequence,
      observedGeneration,
      targets,
      conditions: withTimes(statements, memory.conditions, clock.now()),
      outbox: link.outbox(),
      time: clock.now(),
    };
  }

  #keepConditions(conditions: readonly Condition[]): void {
    const { memory, log } = this.#ports;
    if (canonical(memory.conditions) === canonical(conditions)) return;
    try {
      memory.setConditions(conditions);
    } catch (error) {
      log.warn(
        { error: String(error) },
        'conditions could not be written; their times will be those of the next start',
      );
    }
  }

  async #targetReport({ id }: DaemonTarget, { goalKey }: TargetState, { steps }: Moment): Promise<TargetReport> {
    const { artifacts, memory } = this.#ports;
    const made = goalKey === null ? null : await artifacts.report(goalKey);
    return {
      active: await this.#slot(id, 'active'),
      previous: await this.#slot(id, 'previous'),
      step: steps.get(id) ?? null,
      frontier: made === null ? [] : frontierOf(made),
      ...memory.timing(id),
      ...(made === null ? {} : profilingOf(made)),
    };
  }

  async #slot(target: string, role: SlotRole): Promise<TargetReport['active']> {
    const { artifacts, memory } = this.#ports;
    const key = await artifacts.linked(target, role);
    const document = key === null ? null : await artifacts.report(key);
    if (key === null || document === null) return null;
    const activation = memory.activation(target, key);
    return artifactReport(document, {
      release: activation?.release ?? '',
      since: activation?.since ?? '',
      isConfirmed: memory.isConfirmed(target, key),
      p95Ms: memory.p95Ms(target, key),
      result: memory.resultOf(target, key) ?? contentKey(document),
    });
  }

  #statementsOf({ id }: DaemonTarget, { goal, goalKey, have }: TargetState, moment: Moment): Statement[] {
    const { troubles, allowed } = moment;
    const statements: Statement[] = [];
    const { memory } = this.#ports;
    const say = (...rest: [Statement['type'], boolean | null, string, string]) =>
      statements.push(statement(id, ...rest));
    if (goal !== null && goalKey !== null) {
      const { release } = goal.wanted;
      const failure = memory.failures(id).find(({ key }) => key === goalKey) ?? null;
      const isMade = have.made !== 'no';
      say('Staged', have.hasModel || isMade, have.hasModel ? 'fetched' : 'waiting', `model of ${release.id}`);
      say('Quantized', have.made === 'feasible', have.made, release.id);
      if (have.made === 'infeasible') {
        say('BudgetInfeasible', true, 'infeasible', `no plan for ${release.id} holds the budget; see the frontier`);
      }
      const isActive = have.active?.key === goalKey;
      // What a target keeps itself is known for as long as it can be reached.
      if (!have.isSettled) say('Active', null, 'unreached', release.id);
      else say('Active', isActive, isActive ? 'active' : have.active === null ? 'none' : 'other', release.id);
      say('Confirmed', isActive && have.active!.isConfirmed, isActive ? 'probes' : 'waiting', release.id);
      const held = heldStep(goalKey, have, allowed);
      if (held !== null) {
        const reasons = allowed.reasons.filter(({ holdsWork }) => held === 'activate' || holdsWork);
        say('Gated', true, reasons[0]!.gate, describeReasons(`${held} of ${release.id}`, reasons));
      }
      if (failure !== null) {
        const isTakenBack = failure.step === 'confirm';
        statements.push(failureStatement(failure, isTakenBack ? 'RolledBack' : 'Degraded', true));
      }
    }
    const trouble = troubles.get(id);
    if (trouble !== undefined) statements.push(failureStatement(trouble, 'Degraded', false));
    return statements;
  }
}
