/** What the console tells by itself: one stream for the whole page. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { DeviceEvent } from '../../configs/contracts/device.js';
import type { RolloutNews } from '../server/rollouts.js';

/** Something that was told. */
export type News =
  | { readonly kind: 'device'; readonly id: string }
  | { readonly kind: 'event'; readonly number: number; readonly event: DeviceEvent }
  | { readonly kind: 'rollout'; readonly news: RolloutNews };

/** `connecting` until it is open; `closed` while it is broken: the browser tries again by itself. */
export type StreamState = 'connecting' | 'open' | 'closed';

const listeners = new Set<(news: News) => void>();
const watchers = new Set<(state: StreamState) => void>();
let state: StreamState = 'connecting';
let source: EventSource | null = null;

/** Opens the stream; a second call opens it anew. */
export function openStream(): void {
  source?.close();
  source = new EventSource('/v1/events');
  const tell = (news: News) => {
    for (const listener of listeners) listener(news);
  };
  source.addEventListener('device', ({ data }) =>
    tell({ kind: 'device', id: (JSON.parse(data) as { id: string }).id }),
  );
  source.addEventListener('event', ({ data, lastEventId }) =>
    tell({ kind: 'event', number: Number(lastEventId), event: JSON.parse(data) as DeviceEvent }),
  );
  source.addEventListener('rollout', ({ data }) => tell({ kind: 'rollout', news: JSON.parse(data) as RolloutNews }));
  source.addEventListener('open', () => change('open'));
  source.addEventListener('error', () => change('closed'));
}

/** Ends the stream, as after logging out. */
export function closeStream(): void {
  source?.close();
  source = null;
  change('connecting');
}

function change(next: StreamState): void {
  state = next;
  for (const watcher of watchers) watcher(next);
}

/** Whether the stream is there. */
export function useStreamState(): StreamState {
  const [current, setCurrent] = useState(state);
  useEffect(() => {
    watchers.add(setCurrent);
    setCurrent(state);
    return () => {
      watchers.delete(setCurrent);
    };
  }, []);
  return current;
}

/** Calls `work` for everything that is told while the component is shown. */
export function useNews(work: (news: News) => void): void {
  const latest = useRef(work);
  latest.current = work;
  useEffect(() => {
    const listener = (news: News) => latest.current(news);
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }, []);
}

/** Calls `reload` when something was told that it is about, at most once in `everyMs`; also when the stream has come back. */
export function useReloadOnNews(isAbout: (news: News) => boolean, reload: () => void, everyMs = 1000): void {
  const waiting = useRef<ReturnType<typeof setTimeout> | null>(null);
  const soon = () => {
    waiting.current ??= setTimeout(() => {
      waiting.current = null;
      reload();
    }, everyMs);
  };
  useNews((news) => {
    if (isAbout(news)) soon();
  });
  const stream = useStreamState();
  const before = useRef(stream);
  // Only the return of the stream matters.
  useEffect(() => {
    if (before.current === 'closed' && stream === 'open') soon();
    before.current = stream;
  }, [stream]);
  useEffect(
    () => () => {
      if (waiting.current !== null) clearTimeout(waiting.current);
    },
    [],
  );
}
