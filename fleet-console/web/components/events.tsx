/** What devices have reported. */
import type { StoredEvent } from '../../server/store.js';
import { Link } from '../router.js';
import { Empty, Time } from './basics.js';

/** Events, newest first. */
export function EventList({ events, hasDevice = true }: { events: readonly StoredEvent[]; hasDevice?: boolean }) {
  if (events.length === 0) return <Empty>Nothing has been reported yet.</Empty>;
  return (
    <ol class="list events">
      {events.map(({ number, event }) => (
        <li key={number}>
          <Time at={event.time} />
          {hasDevice && (
            <span class="who-did">
              <Link to={`/devices/${event.device}`}>{event.device}</Link>
              {event.target !== null && event.target !== 'host' && `/${event.target}`}
            </span>
          )}
          {event.type}
          {event.message !== '' && `: ${event.message}`}
        </li>
      ))}
    </ol>
  );
}
