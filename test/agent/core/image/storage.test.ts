import t from 'tap';
import {
  isSameOrder,
  type MoveAxis,
  type Order,
  plainOrder,
  reshapedOrder,
  simplify,
  stridesOf,
  transposedOrder,
} from '../../../../agent/core/image/storage.js';
import { announceSeed, Random } from '../../../support/seed.js';

const random = new Random(announceSeed());
const cases = 3000;

function shuffled(rank: number): number[] {
  const order = plainOrder(rank).map((axis) => ({ axis, at: random.next() }));
  return order.sort((a, b) => a.at - b.at).map(({ axis }) => axis);
}

const randomDims = () => Array.from({ length: 1 + random.below(5) }, () => random.pick([1, 1, 2, 3, 4, 6]));

/** Elements in memory, each by its number in plain order. */
function memory(dims: readonly number[], order: Order): number[] {
  const strides = stridesOf(dims, order);
  const plain = stridesOf(dims, plainOrder(dims.length));
  const count = dims.reduce((a, b) => a * b, 1);
  const result = new Array<number>(count);
  for (let element = 0; element < count; element++) {
    const at = dims.reduce((sum, size, axis) => sum + (Math.floor(element / plain[axis]!) % size) * strides[axis]!, 0);
    result[at] = element;
  }
  return result;
}

t.test('strides lay every element in a place of its own, without gaps', async (t) => {
  for (let n = 0; n < cases; n++) {
    const dims = randomDims();
    const order = shuffled(dims.length);
    const places = memory(dims, order);
    t.equal(new Set(places).size, places.length, `[${dims}] in order [${order}]`);
    if (!t.passing()) break;
  }
});

t.test('orders are the same exactly where they put all elements in the same places', async (t) => {
  for (let n = 0; n < cases; n++) {
    const dims = randomDims();
    const [a, b] = [shuffled(dims.length), shuffled(dims.length)];
    t.equal(isSameOrder(dims, a, b), memory(dims, a).join() === memory(dims, b).join(), `[${dims}]: [${a}], [${b}]`);
    if (!t.passing()) break;
  }
});

t.test('a transposed tensor lies where it lay', async (t) => {
  for (let n = 0; n < cases; n++) {
    const dims = randomDims();
    const [order, permutation] = [shuffled(dims.length), shuffled(dims.length)];
    const to = permutation.map((axis) => dims[axis]!);
    // The element at index i of the result is the one at the permuted index of the input.
    const strides = stridesOf(dims, order);
    const moved = stridesOf(to, transposedOrder(order, permutation));
    const matter = permutation.filter((axis) => dims[axis]! > 1);
    t.strictSame(
      matter.map((axis) => moved[permutation.indexOf(axis)]),
      matter.map((axis) => strides[axis]),
      `[${dims}] in order [${order}] by [${permutation}]`,
    );
    if (!t.passing()) break;
  }
});

/** Another shape of as many elements. */
function reshaped(dims: readonly number[]): number[] {
  let rest = dims.reduce((a, b) => a * b, 1);
  const result: number[] = [];
  while (rest > 1) {
    const divisors = Array.from({ length: rest }, (_, i) => i + 1).filter((d) => rest % d === 0);
    const size = random.pick(divisors);
    result.push(size);
    rest /= size;
    if (result.length === 5) result.push(rest);
    if (result.length === 6) break;
  }
  return result.length === 0 ? [1] : result;
}

t.test('a reshaped tensor lies where it lay, or is said to have to move; in plain order it never has', async (t) => {
  let free = 0;
  for (let n = 0; n < cases; n++) {
    const dims = randomDims();
    const order = random.next() < 0.3 ? plainOrder(dims.length) : shuffled(dims.length);
    const to = reshaped(dims);
    const result = reshapedOrder(dims, order, to);
    const name = `[${dims}] in order [${order}] to [${to}]`;
    if (isSameOrder(dims, order, plainOrder(dims.length))) t.not(result, null, name);
    if (result !== null) {
      free++;
      t.strictSame(
        [...result].sort((a, b) => a - b),
        plainOrder(to.length),
        name,
      );
      t.strictSame(memory(to, result), memory(dims, order), name);
    }
    if (!t.passing()) break;
  }
  t.ok(free > cases / 4, `${free} of ${cases} were free`);
});

t.test('a reshape that only splits or joins axes that are neighbours in memory is free', async (t) => {
  const isReshaped = (from: number[], order: Order, to: number[], wanted: Order) => {
    const result = reshapedOrder(from, order, to);
    return result !== null && isSameOrder(to, result, wanted);
  };
  t.ok(isReshaped([1, 8, 4, 6], [0, 2, 3, 1], [1, 8, 24], [0, 2, 1]));
  t.ok(isReshaped([1, 8, 24], [0, 2, 1], [1, 8, 4, 6], [0, 2, 3, 1]));
  t.equal(reshapedOrder([1, 8, 4, 6], [0, 2, 3, 1], [1, 192]), null, 'channels are innermost: flattening moves');
  t.not(reshapedOrder([1, 64, 1, 1], [0, 2, 3, 1], [1, 64]), null, 'of one pixel it does not');
});

t.test('a simplified move writes the same elements from the same places', async (t) => {
  const pairs = (axes: readonly MoveAxis[]): string => {
    let places: [number, number][] = [[0, 0]];
    for (const { size, from, to } of axes)
      places = places.flatMap(([a, b]) =>
        Array.from({ length: size }, (_, i): [number, number] => [a + i * from, b + i * to]),
      );
    return places
      .map(([a, b]) => `${b}<${a}`)
      .sort()
      .join();
  };
  let joined = 0;
  for (let n = 0; n < 500; n++) {
    const dims = randomDims();
    const [from, to] = [stridesOf(dims, shuffled(dims.length)), stridesOf(dims, shuffled(dims.length))];
    const axes = dims.map((size, axis) => ({ size, from: from[axis]!, to: to[axis]! }));
    const simple = simplify(axes);
    t.equal(pairs(simple), pairs(axes), JSON.stringify(axes));
    t.ok(simple.every((axis, at) => at === 0 || axis.to < simple[at - 1]!.to));
    if (simple.length < axes.filter(({ size }) => size > 1).length) joined++;
    if (!t.passing()) break;
  }
  t.ok(joined > 0);
});
