/** A gate that says what a test wants it to say. */
import type { GatePolicy, GateReading } from '../../agent/core/gates/decide.js';
import type { Gate } from '../../agent/device-ports.js';

/** See above; `reads` counts how often it was asked. */
export class HandGate implements Gate {
  readonly policy: GatePolicy;
  isOpen: boolean | null;
  reason = 'by hand';
  reads = 0;
  isClosed = false;
  /** Called when it is asked afresh, as it is right before a switch. */
  onFresh: () => void = () => {};

  constructor(isOpen: boolean | null, policy: Partial<GatePolicy> = {}) {
    this.isOpen = isOpen;
    this.policy = { kind: 'lock', holds: 'activation', unreadable: 'closed', ...policy };
  }

  async read(isFresh: boolean): Promise<GateReading> {
    this.reads++;
    if (isFresh) this.onFresh();
    return { isOpen: this.isOpen, reason: this.reason, until: null };
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }
}
