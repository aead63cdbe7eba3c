/**
 * The arithmetic that training spends its time in. Here as plain loops, which say what is meant; `kernels.c` has the same
 * functions for speed. Matrices are row-major. Activations are `channels` rows of `n` numbers, or `channels * batch` planes of
 * `height` x `width`. Functions write their first arguments; those called gradients of parameters are added to.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

type Floats = Float32Array;

export interface Kernels {
  /** `out[m x n] = weights[m x k] * x[k x n]`. */
  multiply(out: Floats, weights: Floats, x: Floats, m: number, k: number, n: number): void;
  /** `out[m x k] += a[m x n] * transpose(b[k x n])`. */
  multiplyTransposed(out: Floats, a: Floats, b: Floats, m: number, k: number, n: number): void;
  /** Depthwise 3x3 convolution, padding 1: `y` has planes of ceil(height / stride) x ceil(width / stride). */
  depthwise(
    y: Floats,
    x: Floats,
    weights: Floats,
    channels: number,
    batch: number,
    height: number,
    width: number,
    stride: number,
  ): void;
  /** Gradients of `depthwise`; `dx` must come filled with zeros. */
  depthwiseGradient(
    dx: Floats,
    dWeights: Floats,
    dy: Floats,
    x: Floats,
    weights: Floats,
    channels: number,
    batch: number,
    height: number,
    width: number,
    stride: number,
  ): void;
  /** `y = gain * normalized + offset`, rows normalized by their own `mean` and `variance`, which are outputs too. */
  normalize(
    y: Floats,
    normalized: Floats,
    mean: Floats,
    variance: Floats,
    x: Floats,
    gain: Floats,
    offset: Floats,
    channels: number,
    n: number,
    epsilon: number,
  ): void;
  normalizeGradient(
    dx: Floats,
    dGain: Floats,
    dOffset: Floats,
    dy: Floats,
    normalized: Floats,
    variance: Floats,
    gain: Floats,
    channels: number,
    n: number,
    epsilon: number,
  ): void;
  rectify(y: Floats, x: Floats, n: number): void;
  rectifyGradient(dx: Floats, dy: Floats, y: Floats, n: number): void;
}

export const plainKernels: Kernels = {
  multiply(out, weights, x, m, k, n) {
    out.fill(0);
    for (let row = 0; row < m; row++) {
      for (let inner = 0; inner < k; inner++) {
        const w = weights[row * k + inner]!;
        for (let j = 0; j < n; j++) out[row * n + j]! += w * x[inner * n + j]!;
      }
    }
  },

  multiplyTransposed(out, a, b, m, k, n) {
    for (let row = 0; row < m; row++) {
      for (let column = 0; column < k; column++) {
        let sum = 0;
        for (let j = 0; j < n; j++) sum += a[row * n + j]! * b[column * n + j]!;
        out[row * k + column]! += sum;
      }
    }
  },

  depthwise(y, x, weights, channels, batch, height, width, stride) {
    y.fill(0);
    eachTap(channels, batch, height, width, stride, (weight, from, to) => {
      y[to]! += weights[weight]! * x[from]!;
    });
  },

  depthwiseGradient(dx, dWeights, dy, x, weights, channels, batch, height, width, stride) {
    eachTap(channels, batch, height, width, stride, (weight, from, to) => {
      dx[from]! += weights[weight]! * dy[to]!;
      dWeights[weight]! += x[from]! * dy[to]!;
    });
  },

  normalize(y, normalized, mean, variance, x, gain, offset, channels, n, epsilon) {
    for (let channel = 0; channel < channels; channel++) {
      const row = x.subarray(channel * n, (channel + 1) * n);
      const average = row.reduce((sum, value) => sum + value, 0) / n;
      const spread = row.reduce((sum, value) => sum + (value - average) * (value - average), 0) / n;
      mean[channel] = average;
      variance[channel] = spread;
      const inverse = 1 / Math.sqrt(spread + epsilon);
      row.forEach((value, i) => {
        normalized[channel * n + i] = (value - average) * inverse;
        y[channel * n + i] = gain[channel]! * (value - average) * inverse + offset[channel]!;
      });
    }
  },

  normalizeGradient(dx, dGain, dOffset, dy, normalized, variance, gain, channels, n, epsilon) {
    for (let channel = 0; channel < channels; channel++) {
      let sum = 0;
      let product = 0;
      for (let i = channel * n; i < (channel + 1) * n; i++) {
        sum += dy[i]!;
        product += dy[i]! * normalized[i]!;
      }
      dOffset[channel]! += sum;
      dGain[channel]! += product;
      // Mean and deviation depend on every number of the row, hence the two terms beside dy.
      const factor = gain[channel]! / Math.sqrt(variance[channel]! + epsilon);
      for (let i = channel * n; i < (channel + 1) * n; i++) {
        dx[i] = factor * (dy[i]! - sum / n - (normalized[i]! * product) / n);
      }
    }
  },

  rectify(y, x, n) {
    for (let i = 0; i < n; i++) y[i] = x[i]! > 0 ? x[i]! : 0;
  },

  rectifyGradient(dx, dy, y, n) {
    for (let i = 0; i < n; i++) dx[i] = y[i]! > 0 ? dy[i]! : 0;
  },
};

/** Calls `visit` for every (weight, input pixel, output pixel) that a depthwise 3x3 convolution multiplies. */
function eachTap(
  channels: number,
  batch: number,
  height: number,
  width: number,
  stride: number,
  visit: (weight: number, from: number, to: number) => void,
): void {
  const rows = Math.ceil(height / stride);
  const columns = Math.ceil(width / stride);
  for (let plane = 0; plane < channels * batch; plane++) {
    const firstWeight = Math.floor(plane / batch) * 9;
    for (let to = 0; to < rows * columns; to++) {
      for (let tap = 0; tap < 9; tap++) {
        const y = Math.floor(to / columns) * stride + Math.floor(tap / 3) - 1;
        const x = (to % columns) * stride + (tap % 3) - 1;
        if (y < 0 || x < 0 || y >= height || x >= width) continue;
        visit(firstWeight + tap, (plane * height + y) * width + x, plane * rows * columns + to);
      }
    }
  }
}

/** The kernels that the layers call; plain until someone puts compiled ones in. */
export const kernels: Kernels = { ...plainKernels };

/**
 * Compiles `kernels.c` with the machine's C compiler (`CC`, else `cc`) into a folder that is gone afterwards, and returns its
 * functions; undefined where there is no compiler or no Node header. They round differently from the plain ones.
 */
export function compileKernels(): Kernels | undefined {
  const headers = join(dirname(process.execPath), '..', 'include', 'node');
  const compiler = process.env.CC ?? 'cc';
  const hasCompiler = spawnSync(compiler, ['--version'], { stdio: 'ignore' }).status === 0;
  if (!hasCompiler || !existsSync(join(headers, 'node_api.h'))) return undefined;
  // The TypeScript compiler does not copy C files: from a build folder (`dist/scripts/...`) the source is beside that folder.
  const module = fileURLToPath(import.meta.url);
  const source = module.replace(/[^/]+\/scripts\/firewatch\/kernels\.js$/, 'scripts/firewatch/kernels.c');
  const folder = mkdtempSync(join(tmpdir(), 'firewatch-'));
  try {
    const library = join(folder, 'kernels.node');
    const flags = ['-O3', '-march=native', '-ffast-math', '-shared', '-fPIC', `-I${headers}`];
    execFileSync(compiler, [...flags, '-o', library, source], { stdio: 'pipe' });
    return createRequire(import.meta.url)(library) as Kernels;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
