/** Addresses of pages, without loading the page anew. */
import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';

const moved = new EventTarget();

/** Where the browser is. */
export interface Place {
  readonly path: string;
  readonly query: URLSearchParams;
}

/** Goes to an address of the console. `isSamePage`: only the query has changed; the place in the history is replaced. */
export function go(address: string, isSamePage = false): void {
  if (isSamePage) history.replaceState(null, '', address);
  else history.pushState(null, '', address);
  moved.dispatchEvent(new CustomEvent('moved', { detail: isSamePage }));
}

/** Where the browser is, and again whenever it goes elsewhere. */
export function usePlace(): Place {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const update = () => setPlace(here());
    moved.addEventListener('moved', update);
    addEventListener('popstate', update);
    return () => {
      moved.removeEventListener('moved', update);
      removeEventListener('popstate', update);
    };
  }, []);
  return place;
}

function here(): Place {
  return { path: location.pathname, query: new URLSearchParams(location.search) };
}

/** A link to a page of the console. */
export function Link({
  to,
  children,
  isCurrent = false,
  class: name,
}: {
  to: string;
  children: ComponentChildren;
  isCurrent?: boolean;
  class?: string;
}) {
  return (
    <a
      href={to}
      class={name}
      aria-current={isCurrent ? 'page' : undefined}
      onClick={(event) => {
        const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
        if (!isPlain) return;
        event.preventDefault();
        go(to);
      }}
    >
      {children}
    </a>
  );
}

/** A value of the query, and a way to set some of them: empty ones go. */
export function useQuery(): [URLSearchParams, (values: Readonly<Record<string, string>>) => void] {
  const { path, query } = usePlace();
  const set = (values: Readonly<Record<string, string>>) => {
    const next = new URLSearchParams(query);
    for (const [name, value] of Object.entries(values)) {
      if (value === '') next.delete(name);
      else next.set(name, value);
    }
    go(next.size === 0 ? path : `${path}?${next}`, true);
  };
  return [query, set];
}
