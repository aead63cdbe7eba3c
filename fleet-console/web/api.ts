/** The HTTP API of the console, as pages use it. */
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';

/** What the console answered instead of a document. `status` 0: it did not answer at all. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly hint: string;

  constructor(status: number, code: string, message: string, hint: string) {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint;
  }
}

/** Values of a query; absent ones are left out. */
export type Query = Readonly<Record<string, string | number | null | undefined>>;

/** Called whenever the console asks for somebody to log in. */
let onUnauthorized: () => void = () => {};

/** Says what is to be done when the console asks for somebody to log in. */
export function whenUnauthorized(work: () => void): void {
  onUnauthorized = work;
}

/** A path with a query. */
export function withQuery(path: string, query: Query): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    if (value !== undefined && value !== null && value !== '') search.set(name, String(value));
  return search.size === 0 ? path : `${path}?${search}`;
}

/** Asks for a document. Fails with `ApiError`. */
export function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return ask<T>(withQuery(path, query), { signal: signal ?? null });
}

/** Sends a document, answers one. Fails with `ApiError`. */
export function send<T>(method: 'POST' | 'PUT' | 'DELETE', path: string, document?: unknown): Promise<T> {
  if (document === undefined) return ask<T>(path, { method });
  return ask<T>(path, {
    method,
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(document),
  });
}

/** Sends a file as the artifact of its digest, streamed from the disk. `progress` gets the share that was sent, in [0, 1]. */
export function upload(file: Blob, sha256: string, progress: (share: number) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    // fetch tells nothing of how far an upload is.
    const request = new XMLHttpRequest();
    request.open('PUT', `/v1/artifacts/${sha256}`);
    request.setRequestHeader('content-type', 'application/octet-stream');
    request.upload.onprogress = ({ loaded, total }) => progress(total === 0 ? 0 : loaded / total);
    request.onload = () => {
      if (request.status < 400) resolve();
      else reject(errorFrom(request.status, request.responseText));
    };
    request.onerror = () => reject(unreachable());
    request.send(file);
  });
}

async function ask<T>(path: string, request: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { ...request, headers: { accept: 'application/json', ...request.headers } });
  } catch (error) {
    if (request.signal?.aborted) throw error;
    throw unreachable();
  }
  const text = await response.text();
  if (response.ok) return (text === '' ? null : JSON.parse(text)) as T;
  if (response.status === 401 && path !== '/v1/session') onUnauthorized();
  throw errorFrom(response.status, text);
}

function unreachable(): ApiError {
  return new ApiError(
    0,
    'console/unreachable',
    'The console does not answer.',
    'Check that `fleet serve` runs; this page tries again.',
  );
}

function errorFrom(status: number, text: string): ApiError {
  try {
    const problem = JSON.parse(text) as { code?: string; title?: string; hint?: string; why?: string };
    // `why`: of a console that is not ready.
    return new ApiError(status, problem.code ?? '', problem.title ?? problem.why ?? '', problem.hint ?? '');
  } catch {
    return new ApiError(status, '', `The console answered ${status}.`, '');
  }
}

/** What is known of a document: at first nothing, then it, or why it cannot be had. The last one stays while a newer one is on its way. */
export interface Loaded<T> {
  readonly data: T | null;
  readonly error: ApiError | null;
  readonly isLoading: boolean;
  readonly reload: () => void;
}

/** Asks for a document, and again when the path changes. `path` null: not yet. */
export function useDocument<T>(path: string | null): Loaded<T> {
  const [state, setState] = useState<{
    path: string | null;
    data: T | null;
    error: ApiError | null;
    isLoading: boolean;
  }>({
    path,
    data: null,
    error: null,
    isLoading: path !== null,
  });
  const [round, setRound] = useState(0);
  const reload = useCallback(() => setRound((number) => number + 1), []);
  const shown = useRef(path);
  // A new round asks again.
  useEffect(() => {
    if (path === null) return undefined;
    const abort = new AbortController();
    const isOther = shown.current?.split('?')[0] !== path.split('?')[0];
    shown.current = path;
    setState((old) => ({ path, data: isOther ? null : old.data, error: null, isLoading: true }));
    get<T>(path, {}, abort.signal).then(
      (data) => setState({ path, data, error: null, isLoading: false }),
      (error: unknown) => {
        if (abort.signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        setState((old) => ({ path, data: error.status === 0 ? old.data : null, error, isLoading: false }));
      },
    );
    return () => abort.abort();
  }, [path, round]);
  return { data: state.data, error: state.error, isLoading: state.isLoading, reload };
}
