import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { compile, isInstalled, runProgram, sanitized } from '../support/c-program.js';
import { imageOf, networkOfEverything } from '../support/images.js';
import { randomNetwork } from '../support/networks.js';
import { announceSeed } from '../support/seed.js';

const seed = announceSeed();
const compiler = 'aarch64-linux-gnu-gcc';
const emulator = 'qemu-aarch64-static';
/** The emulator ends a program that uses an instruction which the processor lacks. */
const processors = [
  { cpu: 'cortex-a57', hasDotProduct: false },
  { cpu: 'cortex-a72', hasDotProduct: false },
  { cpu: 'cortex-a76', hasDotProduct: true },
];
/** On each processor; many more in the soak. */
const cases = Math.ceil(Number(process.env.QUANTD_KERNEL_CASES ?? 10_000) / 10);

const absent = (
  await Promise.all([compiler, emulator].map(async (name) => ((await isInstalled(name)) ? [] : [name])))
).flat();
const options = { skip: absent.length > 0 && `${absent.join(' and ')} not installed` };

/** The sanitizer's search for leaks needs what the emulator lacks. */
const emulate = (cpu: string, program: string, args: readonly string[]) =>
  runProgram(emulator, ['-cpu', cpu, '-L', '/usr/aarch64-linux-gnu', program, ...args], {
    ASAN_OPTIONS: 'detect_leaks=0',
  });

t.test(`every kernel for Arm equals the reference bit for bit in ${cases} random convolutions`, options, async (t) => {
  const program = await compile('check_kernels', ['-O2', '-static'], compiler);
  for (const [index, { cpu, hasDotProduct }] of processors.entries()) {
    const { code, output } = await emulate(cpu, program, [String(seed + index), String(cases)]);
    for (const line of output.trim().split('\n')) t.comment(`${cpu}: ${line}`);
    t.equal(code, 0, output);
    const counts = [...output.matchAll(/^(\S+)\s+(\d+) cases(.*)$/gm)];
    t.ok(counts.length > 2, 'there are kernels beside the reference');
    for (const [, name, count, note] of counts) {
      const isLacking = name!.endsWith('.dot') && !hasDotProduct;
      t.equal(note !== '', isLacking, `${cpu} ${isLacking ? 'leaves' : 'has'} ${name}`);
      t.equal(Number(count) > 0, !isLacking, `${name} had ${count} cases`);
    }
  }
});

t.test(
  'kernels for Arm touch nothing that is not theirs and compute without undefined behaviour',
  options,
  async (t) => {
    const program = await compile('check_kernels', sanitized, compiler);
    const { code, output } = await emulate('cortex-a76', program, [String(seed + 10), String(Math.ceil(cases / 10))]);
    t.equal(code, 0, output);
  },
);

t.test('an image gives the same bytes on Arm as on this machine, by any kernel', options, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'quantd-arm-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const here = await compile('run_image', ['-O2']);
  const there = await compile('run_image', ['-O2', '-static'], compiler);
  const images = [
    await imageOf(networkOfEverything(seed), { weightBits: 8, activationBits: 8 }, seed),
    await imageOf(networkOfEverything(seed), { weightBits: 4, activationBits: 4 }, seed),
    await imageOf(randomNetwork(seed, 5), { weightBits: 8, activationBits: 8 }, seed),
    await imageOf(randomNetwork(seed, 5), { weightBits: 2, activationBits: 8 }, seed),
  ];
  const used = new Map<string, Set<string>>();
  for (const [index, { bytes, samples }] of images.entries()) {
    const image = join(folder, `${index}.qimg`);
    const input = join(folder, `${index}.f32`);
    const output = join(folder, 'output.f32');
    writeFileSync(image, bytes);
    writeFileSync(input, samples[0]!);
    const outputOf = async (
      run: (args: readonly string[]) => ReturnType<typeof runProgram>,
      who: string,
      kernel?: string,
    ) => {
      const args = [image, input, output, ...(kernel === undefined ? [] : [kernel])];
      const ended = await run(args);
      t.equal(ended.code, 0, ended.output);
      const kernels = used.get(who) ?? new Set();
      for (const name of ended.output.trim().split('\n')) kernels.add(name);
      used.set(who, kernels);
      return readFileSync(output);
    };
    const expected = await outputOf((args) => runProgram(here, args), 'reference', 'reference');
    t.ok(expected.length > 0 && expected.length % 4 === 0);
    t.strictSame(await outputOf((args) => runProgram(here, args), 'here'), expected, `image ${index} here`);
    for (const { cpu } of processors) {
      const run = (args: readonly string[]) => emulate(cpu, there, args);
      t.strictSame(await outputOf(run, cpu), expected, `image ${index} on ${cpu}`);
    }
    const slowly = (args: readonly string[]) => emulate('cortex-a57', there, args);
    t.strictSame(await outputOf(slowly, 'reference', 'reference'), expected, `image ${index} by the reference on Arm`);
  }
  t.strictSame(used.get('reference'), new Set(['reference']));
  for (const { cpu, hasDotProduct } of processors) {
    t.ok(used.get(cpu)!.has('depthwise.neon'), cpu);
    t.ok(used.get(cpu)!.has(hasDotProduct ? 'direct8.dot' : 'direct8.neon'), cpu);
    t.equal(used.get(cpu)!.has('direct8.dot'), hasDotProduct, cpu);
  }
});
