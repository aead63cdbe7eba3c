import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { OrtTarget } from '../../../agent/adapters/ort-target.js';
import { openEnergyMeter } from '../../../agent/adapters/power.js';
import { conversionKey, dispatchKey, runOverheadKey } from '../../../agent/core/latency.js';
import { prepare } from '../../../agent/core/prepare.js';
import type { EnergyMeter } from '../../../agent/ports.js';
import { floats, info, model, node } from '../core/onnx/support.js';

const folder = mkdtempSync(join(tmpdir(), 'quantd-power-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

type Files = Readonly<Record<string, string | number>>;
let trees = 0;

/** A sysfs with these files, by path. */
function sysfs(files: Files): string {
  const root = join(folder, String(trees++));
  mkdirSync(root);
  write(root, files);
  return root;
}

function write(root: string, files: Files): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), `${text}\n`);
  }
}

const zone = (name: string) => `class/powercap/intel-rapl:${name}`;

function rapl(
  name: string,
  label: string,
  microjoules: number | string,
  range: number | string = 262_143_328_850,
): Files {
  return {
    [`${zone(name)}/name`]: label,
    [`${zone(name)}/energy_uj`]: microjoules,
    [`${zone(name)}/max_energy_range_uj`]: range,
  };
}

async function open(root: string): Promise<EnergyMeter> {
  const meter = await openEnergyMeter(root);
  if (meter === null) throw new Error('no meter');
  return meter;
}

t.test('a machine without sensors has no meter', async (t) => {
  t.equal(await openEnergyMeter(sysfs({})), null);
  t.equal(await openEnergyMeter(join(folder, 'does-not-exist')), null);
  const others = {
    'class/hwmon/hwmon0/name': 'coretemp',
    'class/hwmon/hwmon0/in1_input': 900,
    'class/hwmon/hwmon0/curr1_input': 5,
  };
  t.equal(await openEnergyMeter(sysfs(others)), null, 'sensors of other kinds are not taken for power monitors');
});

t.test('RAPL: packages are summed; their parts and the zone that contains them are not', async (t) => {
  const parts = { ...rapl('0:0', 'core', 0), ...rapl('0:1', 'dram', 0), ...rapl('2', 'psys', 0) };
  const root = sysfs({ ...rapl('0', 'package-0', 1_000_000), ...rapl('1', 'package-1', 500), ...parts });
  const meter = await open(root);
  t.equal(meter.name, 'RAPL package-0 + package-1');
  const measurement = meter.start();
  write(root, { ...rapl('0', 'package-0', 3_500_000), ...rapl('1', 'package-1', 250_500) });
  write(root, { ...rapl('0:0', 'core', 9e9), ...rapl('0:1', 'dram', 9e9), ...rapl('2', 'psys', 9e9) });
  t.equal(measurement.stop(), 2.75);
});

t.test('RAPL: a counter that wraps around goes on from zero', async (t) => {
  const root = sysfs({ ...rapl('0', 'package-0', 900, 1000), ...rapl('1', 'package-1', 0, 1000) });
  const measurement = (await open(root)).start();
  write(root, { ...rapl('0', 'package-0', 50, 1000), ...rapl('1', 'package-1', 7, 1000) });
  t.ok(Math.abs(measurement.stop()! - 157e-6) < 1e-12);
});

t.test('RAPL: counters that this process may not read are no meter', async (t) => {
  for (const content of ['', 'garbage', '12x', '1e5', '9'.repeat(40)]) {
    const root = sysfs({ ...rapl('0', 'package-0', 1), ...rapl('1', 'package-1', content) });
    t.equal(await openEnergyMeter(root), null, `one of two packages says ${JSON.stringify(content)}`);
  }
  const root = sysfs(rapl('0', 'package-0', 5));
  const file = join(root, zone('0'), 'energy_uj');
  chmodSync(file, 0o000);
  // Permissions do not stop root; a folder in place of the file does.
  if (process.getuid?.() === 0) {
    rmSync(file);
    mkdirSync(file);
  }
  t.equal(await openEnergyMeter(root), null);
});

t.test('RAPL: what goes wrong between start and stop leaves no energy, and no exception', async (t) => {
  const cases: [string, (root: string) => void][] = [
    ['the zone vanishes', (root) => rmSync(join(root, zone('0')), { recursive: true })],
    ['the counter is rubbish', (root) => write(root, { [`${zone('0')}/energy_uj`]: 'rubbish' })],
    ['it wraps around nobody knows where', (root) => write(root, rapl('0', 'package-0', 1, 'rubbish'))],
    ['it falls, but began above its range', (root) => write(root, rapl('0', 'package-0', 1, 99))],
    ['it stands still', () => {}],
  ];
  for (const [name, happen] of cases) {
    const root = sysfs(rapl('0', 'package-0', 100));
    const measurement = (await open(root)).start();
    happen(root);
    t.equal(measurement.stop(), null, name);
  }
});

/** A channel of the upstream driver. */
function hwmon(
  chip: number,
  channel: number,
  millivolts: number | string,
  milliamperes: number | string,
  label?: string,
): Files {
  const path = `class/hwmon/hwmon${chip}`;
  return {
    [`${path}/name`]: 'ina3221',
    [`${path}/in${channel}_input`]: millivolts,
    [`${path}/curr${channel}_input`]: milliamperes,
    ...(label === undefined ? {} : { [`${path}/in${channel}_label`]: label }),
  };
}

/** Measures for a while and checks that the energy is that of a constant power. */
async function expectWatts(t: Test, root: string, watts: number): Promise<void> {
  const meter = await open(root);
  const outer = performance.now();
  const measurement = meter.start();
  const inner = performance.now();
  await sleep(70);
  const least = ((performance.now() - inner) / 1000) * watts;
  const joules = measurement.stop();
  const most = ((performance.now() - outer) / 1000) * watts;
  t.ok(joules !== null && joules >= least * 0.999999 && joules <= most * 1.000001, `${least} <= ${joules} <= ${most}`);
}

t.test('INA3221: the rail that feeds the board is read alone', async (t) => {
  const parts = { ...hwmon(4, 1, 19_000, 100, 'VDD_GPU'), ...hwmon(4, 2, 5000, 2000, 'VDD_CPU') };
  const root = sysfs({ ...parts, ...hwmon(3, 1, 5000, 1500, 'VDD_IN'), ...hwmon(3, 2, 1000, 9000, 'VDD_SOC') });
  t.equal((await open(root)).name, 'INA3221 VDD_IN');
  await expectWatts(t, root, 7.5);
});

t.test('INA3221: without a labelled input the rails are summed, sums and shunts of the chip left out', async (t) => {
  const sums = { ...hwmon(0, 4, 1_000_000, 3000), ...hwmon(0, 7, 1_000_000, 3000, 'sum of shunt voltages') };
  const disabled = hwmon(0, 3, '', '');
  const root = sysfs({ ...hwmon(0, 1, 5000, 1000), ...hwmon(0, 2, 3000, 1000), ...disabled, ...sums });
  t.equal((await open(root)).name, 'INA3221 rail 1 + rail 2');
  await expectWatts(t, root, 8);
  const labelled = sysfs({ ...hwmon(1, 1, 5000, 1000, 'VDD_GPU_SOC'), ...hwmon(0, 1, 3000, 500, 'VDD_CPU_CV') });
  t.equal((await open(labelled)).name, 'INA3221 VDD_CPU_CV + VDD_GPU_SOC');
  await expectWatts(t, labelled, 6.5);
});

t.test('INA3221: the older driver is read in milliwatts', async (t) => {
  const device = (chip: string) => `bus/i2c/drivers/ina3221x/${chip}/iio:device0`;
  const rail = (chip: string, channel: number, name: string, milliwatts: number) => ({
    [`${device(chip)}/rail_name_${channel}`]: name,
    [`${device(chip)}/in_power${channel}_input`]: milliwatts,
  });
  const files = { ...rail('6-0040', 0, 'POM_5V_IN', 2500), ...rail('6-0040', 1, 'POM_5V_GPU', 700) };
  const root = sysfs({ ...files, 'bus/i2c/drivers/ina3221x/bind': '' });
  t.equal((await open(root)).name, 'INA3221 POM_5V_IN');
  await expectWatts(t, root, 2.5);
  const xavier = sysfs({ ...rail('1-0040', 0, 'GPU', 900), ...rail('1-0041', 0, 'CV', 100) });
  t.equal((await open(xavier)).name, 'INA3221 CV + GPU');
  await expectWatts(t, xavier, 1);
});

t.test('INA3221: power that changes is followed in between, not only at the ends', async (t) => {
  const root = sysfs(hwmon(0, 1, 1000, 2000));
  const measurement = (await open(root)).start();
  const started = performance.now();
  await sleep(60);
  write(root, hwmon(0, 1, 1000, 6000));
  const changed = performance.now();
  await sleep(300);
  const joules = measurement.stop()!;
  const expected = (2 * (changed - started) + 6 * (performance.now() - changed)) / 1000;
  // A busy machine makes samples late: half a change of 4 W times the delay.
  t.ok(Math.abs(joules - expected) < expected * 0.15, `${joules} is about ${expected}`);
});

t.test('INA3221: what goes wrong in between leaves no energy, even when it comes back', async (t) => {
  const cases: [string, (root: string) => void][] = [
    ['the files vanish', (root) => rmSync(join(root, 'class/hwmon/hwmon0'), { recursive: true })],
    ['the current is rubbish', (root) => write(root, hwmon(0, 1, 5000, 'rubbish'))],
    ['no power is used', (root) => write(root, hwmon(0, 1, 5000, -99_999))],
  ];
  for (const [name, happen] of cases) {
    const root = sysfs(hwmon(0, 1, 5000, 1000));
    const measurement = (await open(root)).start();
    happen(root);
    await sleep(80);
    t.equal(measurement.stop(), null, name);
  }
  const root = sysfs(hwmon(0, 1, 5000, 1000));
  const measurement = (await open(root)).start();
  write(root, hwmon(0, 1, 5000, 'rubbish'));
  await sleep(150);
  write(root, hwmon(0, 1, 5000, 1000));
  t.equal(measurement.stop(), null, 'a gap');
});

const tiny = model({
  inputs: [info('x', [1, 8, 16, 16])],
  nodes: [node('Conv', ['x', 'w'], ['c'], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] }), node('Relu', ['c'], ['y'])],
  initializers: [
    floats(
      'w',
      [8, 8, 3, 3],
      Array.from({ length: 576 }, (_, index) => Math.sin(index) / 8),
    ),
  ],
  outputs: [info('y', [1, 8, 16, 16])],
});

async function measureTiny(meter: EnergyMeter | null) {
  const target = new OrtTarget({ threads: 1, meter });
  const prepared = prepare(tiny, null);
  const precisions = [
    { weightBits: 32, activationBits: 32 },
    { weightBits: 8, activationBits: 8 },
  ] as const;
  return {
    rows: await target.measure(prepared, prepared.operators, precisions, new AbortController().signal, () => {}),
    identity: await target.identity(),
  };
}

t.test(
  'the target gives every row the mean power times its own time, and names the meter in its identity',
  async (t) => {
    const meter: EnergyMeter = {
      name: 'seven watts',
      start: () => {
        const started = performance.now();
        return { stop: () => ((performance.now() - started) / 1000) * 7 };
      },
    };
    const { rows, identity } = await measureTiny(meter);
    t.equal(identity.energyMeter, 'seven watts');
    const keys = rows.map((row) => row.operatorKey);
    for (const key of [runOverheadKey, dispatchKey, conversionKey('QuantizeLinear', [1, 8, 16, 16])])
      t.ok(keys.includes(key), key);
    for (const { operatorKey, precision, median, energyJoules } of rows) {
      const expected = 7 * median * 1e-9;
      t.ok(
        energyJoules !== null && Math.abs(energyJoules - expected) <= expected * 0.01,
        `${operatorKey} at ${precision}`,
      );
    }
  },
);

t.test('without a meter, or with one that fails, rows have no energy', async (t) => {
  const failing: EnergyMeter = { name: 'broken', start: () => ({ stop: () => null }) };
  for (const meter of [null, failing]) {
    const { rows, identity } = await measureTiny(meter);
    t.equal(identity.energyMeter, meter?.name ?? null);
    t.ok(rows.length > 0 && rows.every((row) => row.energyJoules === null));
  }
});
