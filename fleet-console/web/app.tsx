/** The web console: one page, whose address says what it shows. */
import { render } from 'preact';
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { SessionDocument } from '../../configs/contracts/people.js';
import { ApiError, get, send, whenUnauthorized } from './api.js';
import { Announcer } from './components/announce.js';
import { Button, ErrorBox } from './components/basics.js';
import { closeStream, openStream, useStreamState } from './live.js';
import { Audit } from './pages/audit.js';
import { Budgets } from './pages/budgets.js';
import { Compare } from './pages/compare.js';
import { Device } from './pages/device.js';
import { Devices } from './pages/devices.js';
import { LogIn } from './pages/log-in.js';
import { Overview } from './pages/overview.js';
import { Releases } from './pages/releases.js';
import { Rollout } from './pages/rollout.js';
import { NewRollout } from './pages/rollout-new.js';
import { Rollouts } from './pages/rollouts.js';
import { Link, usePlace } from './router.js';
import { SessionContext } from './session.js';
import { applyTheme, chooseTheme, currentTheme, type Theme } from './theme.js';

const places = [
  ['/', 'Overview'],
  ['/devices', 'Devices'],
  ['/releases', 'Releases'],
  ['/rollouts', 'Rollouts'],
  ['/budgets', 'Budgets'],
  ['/audit', 'Audit'],
] as const;

function Page({ path }: { path: string }) {
  const [, first = '', second = ''] = path.split('/').map(decodeURIComponent);
  if (first === '') return <Overview />;
  if (first === 'devices') return second === '' ? <Devices /> : <Device key={second} id={second} />;
  if (first === 'releases') return second === 'compare' ? <Compare /> : <Releases />;
  if (first === 'rollouts') {
    if (second === '') return <Rollouts />;
    return second === 'new' ? <NewRollout /> : <Rollout key={second} id={second} />;
  }
  if (first === 'budgets') return <Budgets />;
  if (first === 'audit') return <Audit />;
  return (
    <>
      <h1 tabIndex={-1}>There is no such page</h1>
      <p>
        <Link to="/">Back to the overview</Link>
      </p>
    </>
  );
}

/** Not asked yet; somebody has to log in; the console does not answer; who it is. */
type Standing = 'asking' | 'out' | ApiError | { readonly session: SessionDocument };

function App() {
  const { path } = usePlace();
  const [standing, setStanding] = useState<Standing>('asking');
  const main = useRef<HTMLElement>(null);
  const shown = useRef(path);

  const ask = useCallback(() => {
    get<SessionDocument>('/v1/session').then(
      (session) => setStanding({ session }),
      (error: unknown) => {
        if (!(error instanceof ApiError)) throw error;
        setStanding(error.status === 401 ? 'out' : error);
      },
    );
  }, []);
  useEffect(() => {
    whenUnauthorized(() => {
      closeStream();
      setStanding('out');
    });
    ask();
  }, [ask]);
  const isIn = typeof standing === 'object' && 'session' in standing;
  useEffect(() => {
    if (isIn) openStream();
  }, [isIn]);
  useEffect(() => {
    if (shown.current === path) return;
    shown.current = path;
    scrollTo(0, 0);
    main.current?.querySelector('h1')?.focus();
  }, [path]);

  if (standing === 'asking') return null;
  if (standing === 'out') return <LogIn onIn={ask} />;
  if (standing instanceof ApiError)
    return (
      <main>
        <h1>Quantd fleet</h1>
        <ErrorBox error={standing} retry={ask} />
      </main>
    );
  const { session } = standing;
  return (
    <SessionContext.Provider value={session}>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <header class="banner">
        <Link to="/" class="brand">
          <img src="/assets/icon.svg" alt="" />
          Quantd fleet
        </Link>
        <nav class="main-nav" aria-label="Main">
          <ul>
            {places.map(([to, name]) => (
              <li key={to}>
                <Link to={to} isCurrent={to === '/' ? path === '/' : path.startsWith(to)}>
                  {name}
                </Link>
              </li>
            ))}
          </ul>
        </nav>
        <div class="who">
          <StreamSign />
          <ThemeSwitch />
          <span>{session.via === 'local' ? 'nobody has to log in' : `${session.name} (${session.role})`}</span>
          {session.via === 'session' && (
            <Button
              kind="quiet"
              onClick={() => {
                closeStream();
                send('DELETE', '/v1/session').finally(ask);
              }}
            >
              Log out
            </Button>
          )}
        </div>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        <Page path={path} />
      </main>
      <Announcer />
    </SessionContext.Provider>
  );
}

function StreamSign() {
  const state = useStreamState();
  const texts = { connecting: 'connecting', open: 'live', closed: 'reconnecting' };
  return (
    <span class={`stream ${state}`} role="status">
      {texts[state]}
    </span>
  );
}

function ThemeSwitch() {
  const [theme, setTheme] = useState<Theme>(currentTheme);
  const next: Record<Theme, Theme> = { system: 'light', light: 'dark', dark: 'system' };
  const names: Record<Theme, string> = { system: 'as the system', light: 'light', dark: 'dark' };
  return (
    <Button
      kind="quiet"
      onClick={() => {
        chooseTheme(next[theme]);
        setTheme(next[theme]);
      }}
    >
      Colours: {names[theme]}
    </Button>
  );
}

applyTheme();
render(<App />, document.getElementById('app')!);
