/** Settings in layers: which one wins, where it came from, and what is said of a mistake. */
import { Type } from '@sinclair/typebox';
import t from 'tap';
import { AgentSettings } from '../../configs/contracts/agent-settings.js';
import { ConsoleSettings } from '../../configs/contracts/console-settings.js';
import type { EdgeError } from '../../configs/contracts/errors.js';
import { environmentLayer, resolveSettings, tomlLayer } from '../../configs/settings.js';

const section = <T extends Parameters<typeof Type.Object>[0]>(properties: T) =>
  Type.Object(properties, { additionalProperties: false, default: {} });
const schema = Type.Object({
  one: section({
    count: Type.Integer({ minimum: 1, maximum: 9, default: 3 }),
    isOn: Type.Boolean({ default: false }),
    names: Type.Array(Type.String(), { default: [] }),
  }),
  two: section({
    level: Type.Union([Type.Literal('low'), Type.Literal('high')], { default: 'low' }),
    longName: Type.String({ default: 'x' }),
  }),
});

function faultOf(work: () => unknown): Pick<EdgeError, 'code' | 'message' | 'hint'> {
  try {
    work();
  } catch (error) {
    return error as EdgeError;
  }
  throw new Error('nothing was wrong');
}

t.test('each layer goes over the one before, key by key, and every value knows where it comes from', async (t) => {
  const file = tomlLayer('[one]\ncount = 4\nnames = ["a", "b"]\n[two]\nlevel = "high"', 'a.toml');
  const environment = environmentLayer(schema, 'APP', {
    APP__ONE__COUNT: '5',
    APP__TWO__LONG_NAME: 'y',
    OTHER__ONE__COUNT: '9',
  });
  const { values, origins } = resolveSettings(schema, [
    file,
    environment,
    { origin: 'flags', values: { one: { isOn: true } } },
  ]);
  t.same(values, { one: { count: 5, isOn: true, names: ['a', 'b'] }, two: { level: 'high', longName: 'y' } });
  t.same(origins, {
    'one.count': 'environment',
    'one.isOn': 'flags',
    'one.names': 'a.toml',
    'two.level': 'a.toml',
    'two.longName': 'environment',
  });
});

t.test('variables are converted as the schema says', async (t) => {
  const { values } = environmentLayer(schema, 'APP', {
    APP__ONE__ISON: 'true',
    APP__ONE__NAMES: 'a, b',
    app__one__count: '1',
  });
  t.same(values, { one: { isOn: true, names: ['a', 'b'] } });
  t.same(environmentLayer(schema, 'APP', { APP__ONE__NAMES: '' }).values, { one: { names: [] } });
});

t.test('a mistake is told with its key, its place and what would be right', async (t) => {
  const cases: [string, () => unknown, RegExp, RegExp][] = [
    [
      'a key that is not there',
      () => resolveSettings(schema, [tomlLayer('[one]\ncuont = 4', 'a.toml')]),
      /a\.toml.*one\.cuont/,
      /one\.count/,
    ],
    [
      'a section that is not there',
      () => resolveSettings(schema, [tomlLayer('[tow]\nlevel = "low"', 'a.toml')]),
      /tow\.level/,
      /two\.level/,
    ],
    [
      'a variable that names nothing',
      () => environmentLayer(schema, 'APP', { APP__TWO__LEVLE: 'low' }),
      /APP__TWO__LEVLE/,
      /two\.level/,
    ],
    [
      'too large',
      () => resolveSettings(schema, [tomlLayer('[one]\ncount = 10', 'a.toml')]),
      /one\.count cannot be 10/,
      /at most 9/,
    ],
    [
      'of another type',
      () => resolveSettings(schema, [tomlLayer('[one]\ncount = "4"', 'a.toml')]),
      /one\.count/,
      /integer/,
    ],
    [
      'none of the choices',
      () => resolveSettings(schema, [tomlLayer('[two]\nlevel = "middle"', 'a.toml')]),
      /middle/,
      /"low", "high"/,
    ],
    [
      'a variable that is no number',
      () => environmentLayer(schema, 'APP', { APP__ONE__COUNT: 'many' }),
      /APP__ONE__COUNT/,
      /integer/,
    ],
    [
      'a variable that is no truth',
      () => environmentLayer(schema, 'APP', { APP__ONE__IS_ON: 'maybe' }),
      /APP__ONE__IS_ON/,
      /boolean/,
    ],
    ['no TOML', () => tomlLayer('[one\ncount = 4', 'a.toml'), /a\.toml is not TOML at line 1/, /README/],
    ['a key outside any section', () => tomlLayer('count = 4', 'a.toml'), /outside any section/, /\[section\]/],
    ['a date outside any section', () => tomlLayer('one = 2026-01-01', 'a.toml'), /outside any section/, /\[section\]/],
    [
      'an inherited name',
      () => resolveSettings(schema, [{ origin: 'x', values: { one: { constructor: 1 } as never } }]),
      /one\.constructor/,
      /./,
    ],
  ];
  for (const [what, work, message, hint] of cases) {
    const fault = faultOf(work);
    t.equal(fault.code, 'settings/invalid', what);
    t.match(fault.message, message, what);
    t.match(fault.hint, hint, what);
  }
});

t.test('a section in a section, absent until it is named, is laid over its own defaults', async (t) => {
  t.same(resolveSettings(AgentSettings, []).values.gates, { openSeconds: 10 });
  const file = tomlLayer('[gates]\nopenSeconds = 3\n[gates.window]\nfrom = "22:00"\nto = "04:00"', 'a.toml');
  const environment = environmentLayer(AgentSettings, 'QUANTD', {
    QUANTD__GATES__WINDOW__ZONE: 'Europe/Berlin',
    QUANTD__GATES__LOCK__LIFETIME_HOURS: '2',
    QUANTD__GATES__LOCK__FILE: '/run/lock/quantd',
    QUANTD__GATES__EXEC__COMMAND: '/bin/a, b',
  });
  const { values, origins } = resolveSettings(AgentSettings, [file, environment]);
  t.match(values.gates, {
    openSeconds: 3,
    window: { from: '22:00', to: '04:00', zone: 'Europe/Berlin', trustsClock: false, unreadable: 'closed' },
    lock: { file: '/run/lock/quantd', lifetimeHours: 2, holds: 'activation' },
    exec: { command: ['/bin/a', 'b'], everySeconds: 30 },
  });
  t.equal(values.gates.mavlink, undefined);
  t.match(origins, {
    'gates.openSeconds': 'a.toml',
    'gates.window.from': 'a.toml',
    'gates.window.zone': 'environment',
    'gates.window.trustsClock': 'default',
  });
  t.equal(origins['gates.mavlink.udp'], undefined);
});

t.test('mistakes in a section in a section are told as precisely as others', async (t) => {
  const resolve = (text: string) => () => resolveSettings(AgentSettings, [tomlLayer(text, 'a.toml')]);
  const cases: [string, RegExp, RegExp][] = [
    ['[gates.window]\nfrom = "22:00"', /gates\.window\.to is not set, and \[gates\.window\] needs it/, /string/],
    ['[gates.window]\nfrom = "22:00"\nto = "24:00"', /gates\.window\.to cannot be "24:00"/, /like/],
    [
      '[gates.window]\nfrom = "22:00"\nto = "04:00"\ndays = ["monday"]',
      /gates\.window\.days/,
      /a list of "mon", "tue"/,
    ],
    ['[gates.lock]\nfile = "relative"', /gates\.lock\.file/, /\^\//],
    ['[gates.lock]\nflie = "/x"', /there is no setting gates\.lock\.flie/, /gates\.lock\.file/],
    ['[gates.lcok]\nfile = "/x"', /there is no setting gates\.lcok/, /gates\.lock/],
    ['[gates]\nlock = "/x"', /gates\.lock is a section/, /\[gates\.lock\]/],
    ['[gates.power]\nholds = "all"', /gates\.power\.holds/, /"work", "activation"/],
    ['[gates.temperature]', /gates\.temperature\.mostCelsius is not set/, /at most 150/],
  ];
  for (const [text, message, hint] of cases) {
    const fault = faultOf(resolve(text));
    t.equal(fault.code, 'settings/invalid', text);
    t.match(fault.message, message, text);
    t.match(fault.hint, hint, text);
  }
  const variable = { QUANTD__GATES__LOCK__FLIE: '/x' };
  t.match(faultOf(() => environmentLayer(AgentSettings, 'QUANTD', variable)).hint, /gates\.lock\.file/);
  t.equal(
    faultOf(() => environmentLayer(AgentSettings, 'QUANTD', { QUANTD__GATES__LOCK: '/x' })).code,
    'settings/invalid',
  );
});

t.test('the defaults of both programs are valid', async (t) => {
  t.equal(resolveSettings(AgentSettings, []).values.mqtt.url, 'mqtt://127.0.0.1:7401');
  t.equal(resolveSettings(ConsoleSettings, []).values.http.host, '127.0.0.1');
});
