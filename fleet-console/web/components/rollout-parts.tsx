/** What lists and pages of rollouts share. */
import type { RolloutStatus } from '../../../configs/contracts/rollout.js';
import type { RolloutSummary } from '../../server/rollout-store.js';
import { Link } from '../router.js';
import { Tag, Time, type Tone } from './basics.js';
import { Shares } from './chart.js';
import { Table } from './table.js';

const tones: Readonly<Record<RolloutStatus, Tone>> = {
  running: 'busy',
  paused: 'bad',
  'rolling-back': 'bad',
  completed: 'good',
  'rolled-back': 'quiet',
  aborted: 'quiet',
};

/** How a rollout stands. */
export function StatusTag({ status }: { status: RolloutStatus }) {
  return <Tag tone={tones[status]}>{status.replace('-', ' ')}</Tag>;
}

const stateTones: readonly (readonly [state: string, tone: string])[] = [
  ['confirmed', 'good'],
  ['updating', 'busy'],
  ['waiting', 'quiet'],
  ['failed', 'bad'],
  ['returning', 'busy'],
  ['returned', 'accent'],
  ['stranded', 'bad'],
  ['superseded', 'quiet'],
];

/** States of devices in a rollout, in the order in which they are shown. */
export const progressStates = stateTones.map(([state]) => state);

/** Devices of a rollout by state. */
export function RolloutShares({ counts }: { counts: Readonly<Record<string, number>> }) {
  return <Shares parts={stateTones.map(([name, tone]) => ({ name, count: counts[name] ?? 0, tone }))} />;
}

/** Rollouts, one a row. */
export function RolloutTable({ rollouts }: { rollouts: readonly RolloutSummary[] }) {
  return (
    <Table
      caption="Rollouts, newest first"
      rows={rollouts}
      keyOf={({ id }) => id}
      columns={[
        {
          name: 'Rollout',
          cell: ({ id, release }) => (
            <Link to={`/rollouts/${id}`}>
              {id}: {release}
            </Link>
          ),
        },
        {
          name: 'Status',
          cell: ({ status, reason }) => (
            <>
              <StatusTag status={status} />
              <small>{reason}</small>
            </>
          ),
        },
        { name: 'On', cell: ({ selector, target }) => `${selector}, ${target}` },
        {
          name: 'Stage',
          cell: ({ stage, policy }) => `${Math.min(stage + 1, policy.stages.length)} of ${policy.stages.length}`,
        },
        { name: 'Devices', cell: ({ counts }) => <RolloutShares counts={counts} /> },
        {
          name: 'Changed',
          cell: ({ changedAt }) => <Time at={changedAt} />,
        },
      ]}
    />
  );
}
