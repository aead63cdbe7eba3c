/**
 * `memory-child.js MODEL`: opens an artifact (ONNX file or image), runs it some times on zeros, and prints the most memory that this
 * process took, in kilobytes. Only the runtime that is needed is loaded.
 */
import { readFileSync } from 'node:fs';

const path = process.argv[2] ?? '';
const runs = 5;
if (path.endsWith('.qimg')) {
  const { EngineModel } = await import('../../native/index.js');
  const { readDescription } = await import('../../agent/core/image/description.js');
  const bytes = readFileSync(path);
  const inputs = readDescription(bytes).inputs.map(({ dims }) => new Float32Array(dims.reduce((a, b) => a * b, 1)));
  const model = new EngineModel(bytes, { threads: 1 });
  for (let run = 0; run < runs; run++) await model.run(inputs);
  model.close();
} else {
  const { createSession, sessionOptions } = await import('../../agent/adapters/ort-runtime.js');
  const { Tensor } = await import('onnxruntime-node');
  const session = await createSession(readFileSync(path), sessionOptions(1));
  const feeds = Object.fromEntries(
    session.inputMetadata.map((input) => {
      const dims = input.isTensor ? input.shape.map((size) => (typeof size === 'number' ? size : 1)) : [];
      return [input.name, new Tensor('float32', new Float32Array(dims.reduce((a, b) => a * b, 1)), dims)];
    }),
  );
  for (let run = 0; run < runs; run++) await session.run(feeds);
  await session.release();
}
// Not `resourceUsage`: its maximum is inherited from the process that started this one.
process.stdout.write(`${/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]}\n`);
