/** The answer to a what-if as people read it: reasons by hardware class, and no more devices than they look at. Pure. */
import type { WhatIfAnswer } from './predictions.js';
import type { Verdict } from './what-if.js';

/** Targets of a hardware class with one verdict for one reason. */
export interface VerdictReason {
  readonly verdict: Verdict;
  readonly why: string;
  /** So many targets. */
  readonly targets: number;
  /** One of them. */
  readonly device: string;
  readonly target: string;
}

/** A class of an answer, with the reasons that most of its targets have; not all. */
export type ReasonedClass = WhatIfAnswer['classes'][number] & { readonly reasons: readonly VerdictReason[] };

/** A what-if answer that tells how many targets were judged, whether they are listed or not. */
export type ReasonedAnswer = Omit<WhatIfAnswer, 'classes'> & {
  readonly total: number;
  readonly classes: readonly ReasonedClass[];
};

/** Reasons that are named with a class. */
const namedReasons = 4;

/** Adds reasons, and lists no more than so many targets. */
export function withReasons(answer: WhatIfAnswer, mostDevices: number): ReasonedAnswer {
  const reasons = new Map<string, Map<string, VerdictReason>>();
  for (const { hardwareClass, verdict, why, id, target } of answer.devices) {
    const known = reasons.get(hardwareClass) ?? new Map<string, VerdictReason>();
    reasons.set(hardwareClass, known);
    const key = `${verdict} ${why}`;
    const reason = known.get(key) ?? { verdict, why, targets: 0, device: id, target };
    known.set(key, { ...reason, targets: reason.targets + 1 });
  }
  return {
    ...answer,
    total: answer.devices.length,
    devices: answer.devices.slice(0, mostDevices),
    classes: answer.classes.map((kind) => ({
      ...kind,
      reasons: [...(reasons.get(kind.hardwareClass)?.values() ?? [])]
        .sort((a, b) => b.targets - a.targets)
        .slice(0, namedReasons),
    })),
  };
}
