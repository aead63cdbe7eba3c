/** Small parts of every page. */
import type { ComponentChildren } from 'preact';
import { useEffect, useId, useState } from 'preact/hooks';
import type { ApiError, Loaded } from '../api.js';
import { type Role, useRefusal } from '../session.js';
import { type DeviceState, toneOf } from '../states.js';

/** What a colour says: all is well, somebody has to look, something goes on, nothing in particular. */
export type Tone = 'good' | 'bad' | 'busy' | 'quiet';

/** A word that says how something stands. */
export function Tag({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`tag ${tone}`}>{children}</span>;
}

/** The state of a device. */
export function StateTag({ state }: { state: DeviceState }) {
  return <Tag tone={toneOf(state)}>{state}</Tag>;
}

/** A button. With `needs`, it is disabled for those whose role is less, and says why. */
export function Button({
  children,
  onClick,
  kind = 'plain',
  type = 'button',
  isBusy = false,
  disabledBecause = null,
  needs = 'viewer',
}: {
  children: ComponentChildren;
  onClick?: () => void;
  kind?: 'plain' | 'primary' | 'danger' | 'quiet';
  type?: 'button' | 'submit';
  isBusy?: boolean;
  /** Why it cannot be used now; null where it can. */
  disabledBecause?: string | null;
  needs?: Role;
}) {
  const refusal = useRefusal(needs);
  const why = refusal ?? disabledBecause;
  const id = useId();
  return (
    <>
      <button
        type={type}
        class={`button ${kind}`}
        // Not `disabled`: who cannot use it must be able to reach it, and hear why.
        aria-disabled={why !== null || isBusy}
        aria-describedby={why === null ? undefined : id}
        title={why ?? undefined}
        onClick={(event) => {
          if (why !== null || isBusy) event.preventDefault();
          else onClick?.();
        }}
      >
        {isBusy ? 'Working…' : children}
      </button>
      {why !== null && (
        <span id={id} class={refusal === null ? 'hidden' : 'reason'}>
          {why}
        </span>
      )}
    </>
  );
}

/** A part of a page with a heading. */
export function Section({
  title,
  children,
  aside,
}: {
  title: string;
  children: ComponentChildren;
  aside?: ComponentChildren;
}) {
  const id = useId();
  return (
    <section aria-labelledby={id}>
      <div class="section-head">
        <h2 id={id}>{title}</h2>
        {aside}
      </div>
      {children}
    </section>
  );
}

/** What stands where there is nothing to show, and what to do about it. */
export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

/** An error of the console with what can be done about it. */
export function ErrorBox({ error, retry }: { error: ApiError; retry?: () => void }) {
  return (
    <div class="error" role="alert">
      <p>
        <strong>{sentence(error.message)}</strong>
        {error.code !== '' && <code>{error.code}</code>}
      </p>
      {error.hint !== '' && <p>{error.hint}</p>}
      {retry !== undefined && <Button onClick={retry}>Try again</Button>}
    </div>
  );
}

function sentence(text: string): string {
  return text === '' ? 'Something went wrong.' : `${text[0]!.toUpperCase()}${text.slice(1)}`;
}

/** Shows a document once it is there; before that, that it is on its way; or why it cannot be had, or `absent` on 404. */
export function Await<T>({
  document,
  children,
  absent,
  lines = 6,
}: {
  document: Loaded<T>;
  children: (data: T) => ComponentChildren;
  absent?: ComponentChildren;
  /** Height of what will come, in lines of text: so nothing jumps. */
  lines?: number;
}) {
  const { data, error, isLoading, reload } = document;
  if (error?.status === 404 && absent !== undefined) return <>{absent}</>;
  return (
    <>
      {error !== null && <ErrorBox error={error} retry={reload} />}
      {data !== null && children(data)}
      {data === null && isLoading && (
        <div class="loading" style={{ minHeight: `${lines * 1.45}em` }}>
          Loading…
        </div>
      )}
    </>
  );
}

/** A time: how long ago, with the whole of it where somebody asks. */
export function Time({ at }: { at: string | number | null | undefined }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 15_000);
    return () => clearInterval(timer);
  }, []);
  if (at === null || at === undefined) return <>–</>;
  const time = new Date(at);
  if (Number.isNaN(time.getTime())) return <>–</>;
  return (
    <time dateTime={time.toISOString()} title={time.toLocaleString()}>
      {agoText((now - time.getTime()) / 1000)}
    </time>
  );
}

function agoText(seconds: number): string {
  const past = seconds >= 0;
  const size = Math.abs(seconds);
  const units = [
    [86_400 * 365, 'year'],
    [86_400, 'day'],
    [3600, 'hour'],
    [60, 'minute'],
  ] as const;
  const [length, unit] = units.find(([of]) => size >= of) ?? [1, 'second'];
  const format = new Intl.RelativeTimeFormat('en', { numeric: 'auto', style: 'short' });
  if (unit === 'second' && size < 10) return 'just now';
  return format.format((past ? -1 : 1) * Math.floor(size / length), unit);
}

/** Names with values, one a line. */
export function Facts({ rows }: { rows: readonly (readonly [string, ComponentChildren])[] }) {
  return (
    <dl class="facts">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** How far something is. */
export function Progress({ share, label }: { share: number; label: string }) {
  return <progress value={share} max={1} aria-label={label} />;
}

/** The head of a page: its only first-level heading, which takes the focus when the page is gone to. */
export function PageHead({
  title,
  intro,
  actions,
}: {
  title: string;
  intro?: ComponentChildren;
  actions?: ComponentChildren;
}) {
  useEffect(() => {
    document.title = `${title} – Quantd fleet`;
  }, [title]);
  return (
    <div class="page-head">
      <div>
        <h1 tabIndex={-1}>{title}</h1>
        {intro !== undefined && <p>{intro}</p>}
      </div>
      {actions !== undefined && <div class="actions">{actions}</div>}
    </div>
  );
}
