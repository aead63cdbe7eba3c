/** Every state a target can be in: what is decided is safe, and leads to the goal. */
import t from 'tap';
import { type DeviceStep, type Have, nextStep } from '../../../agent/core/reconcile.js';

type World = { -readonly [Key in keyof Have]: Have[Key] } & { goal: string | null };

/** Every combination of two artifacts, A (the goal, where there is one) and B, over all slots and facts. */
function* worlds(): Generator<World> {
  const slots = [null, 'A', 'B'];
  const facts = [false, true];
  for (const goal of [null, 'A'])
    for (const hasModel of facts)
      for (const made of ['no', 'feasible', 'infeasible'] as const)
        for (const isPublished of facts)
          for (const activeKey of slots)
            for (const isConfirmed of facts)
              for (const previous of slots)
                for (const failed of [[], ['A'], ['B'], ['A', 'B']])
                  yield {
                    goal,
                    isSettled: true,
                    hasModel,
                    made,
                    isPublished,
                    active: activeKey === null ? null : { key: activeKey, isConfirmed },
                    previous,
                    failed: new Set(failed),
                  };
}

/** What a step does to the world when it succeeds. `outcome`: whether the budget can be held, and whether a bake succeeds. */
function perform(world: World, step: DeviceStep, outcome: { isFeasible: boolean; isFit: boolean }): World {
  switch (step) {
    case 'settle':
      return { ...world, isSettled: true };
    case 'fetch':
      return { ...world, hasModel: true };
    case 'quantize':
      return { ...world, made: outcome.isFeasible ? 'feasible' : 'infeasible' };
    case 'publish':
      return { ...world, isPublished: true };
    case 'activate': {
      const previous = world.active?.isConfirmed ? world.active.key : world.previous;
      return { ...world, previous, active: { key: world.goal!, isConfirmed: false } };
    }
    case 'confirm': {
      const { key } = world.active!;
      if (outcome.isFit) return { ...world, active: { key, isConfirmed: true } };
      return { ...world, failed: new Set([...world.failed, key]) };
    }
    case 'revert': {
      const { previous, failed } = world;
      const isUsable = previous !== null && !failed.has(previous);
      return { ...world, previous: null, active: isUsable ? { key: previous, isConfirmed: true } : null };
    }
  }
}

t.test('from every state, a few steps lead to rest', async (t) => {
  let count = 0;
  for (const start of worlds()) {
    for (const isFeasible of [true, false]) {
      for (const isFit of [true, false]) {
        let world = start;
        let steps = 0;
        for (;;) {
          const step = nextStep(world.goal, world);
          if (step === null) break;
          if (++steps > 12) return t.fail(`no end: ${JSON.stringify({ start, world, step })}`);
          world = perform(world, step, { isFeasible, isFit });
        }
        count++;
        const { goal, failed, active, made, isPublished } = world;
        if (active !== null && (failed.has(active.key) || !active.isConfirmed)) {
          return t.fail(`an artifact that failed, or never proved itself, stays active: ${JSON.stringify(start)}`);
        }
        if (goal !== null && made === 'feasible' && !failed.has(goal) && active?.key !== goal) {
          return t.fail(`the goal could be active and is not: ${JSON.stringify(start)}`);
        }
        if (goal !== null && made !== 'no' && !isPublished) return t.fail(`unpublished: ${JSON.stringify(start)}`);
      }
    }
  }
  t.equal(count, 2 * 2 * 3 * 2 * 3 * 2 * 3 * 4 * 4);
});

t.test('nothing is fetched or made while what is active has yet to prove itself, or has failed', async (t) => {
  for (const world of worlds()) {
    const step = nextStep(world.goal, world);
    if (world.active === null) continue;
    if (world.failed.has(world.active.key)) t.equal(step, 'revert');
    else if (!world.active.isConfirmed) t.equal(step, 'confirm');
  }
});

t.test('a goal that failed, or that no plan can meet, never touches what is active', async (t) => {
  for (const world of worlds()) {
    if (world.active?.isConfirmed !== true || world.failed.has(world.active.key)) continue;
    if (!world.failed.has('A') && world.made !== 'infeasible') continue;
    const step = nextStep(world.goal, world);
    t.ok(step === null || step === 'publish', JSON.stringify({ ...world, failed: [...world.failed] }));
  }
});

t.test('an artifact that is there already needs no model', async (t) => {
  for (const world of worlds()) {
    if (world.made === 'no' || world.hasModel) continue;
    t.not(nextStep(world.goal, world), 'fetch');
  }
});
