/** Every rollout. */
import type { RolloutSummary } from '../../server/rollout-store.js';
import { useDocument } from '../api.js';
import { Await, Empty, PageHead } from '../components/basics.js';
import { RolloutTable } from '../components/rollout-parts.js';
import { useReloadOnNews } from '../live.js';
import { Link } from '../router.js';

/** The list, newest first. */
export function Rollouts() {
  const rollouts = useDocument<{ rollouts: RolloutSummary[] }>('/v1/rollouts');
  useReloadOnNews(({ kind }) => kind === 'rollout', rollouts.reload);
  return (
    <>
      <PageHead
        title="Rollouts"
        intro="A release that spreads in stages, and is stopped or taken back by what devices measure."
        actions={
          <Link to="/rollouts/new" class="button primary">
            New rollout
          </Link>
        }
      />
      <Await document={rollouts}>
        {({ rollouts: all }) =>
          all.length === 0 ? (
            <Empty>There was no rollout yet. A first one needs a release, and devices that it is for.</Empty>
          ) : (
            <RolloutTable rollouts={all} />
          )
        }
      </Await>
    </>
  );
}
