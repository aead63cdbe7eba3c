/** Names of precisions, and the latency table that they index. */
import t from 'tap';
import { conversionKey, LatencyTable, scaleRows } from '../../../agent/core/latency.js';
import { float, formatPrecision, parsePrecision, parsePrecisions } from '../../../agent/core/precision.js';
import type { LatencyRow } from '../../../configs/contracts/plan.js';

t.test('every precision is written one way and read back, whatever its case', async (t) => {
  for (const name of ['float', 'W8A8', 'W4A32', 'W4A8', 'W2A4', 'W16A16']) {
    t.equal(formatPrecision(parsePrecision(name)), name);
    t.equal(formatPrecision(parsePrecision(name.toLowerCase())), name);
  }
  t.strictSame(parsePrecision('FLOAT'), float);
  t.equal(formatPrecision(parsePrecision('W32A32')), 'float');
});

t.test('anything else is usage/invalid', async (t) => {
  for (const text of ['', 'W8', 'A8', 'W9A8', 'W8A9', 'W8A8A8', 'int8', 'W-8A8', 'W08 A8', 'W1A1']) {
    t.throws(() => parsePrecision(text), { code: 'usage/invalid', subject: '--precisions' }, text);
  }
});

t.test('a list keeps its order and loses its repeats', async (t) => {
  t.strictSame(parsePrecisions(' w8a8, float ,W8A8,W32A32').map(formatPrecision), ['W8A8', 'float']);
  t.throws(() => parsePrecisions('W8A8,,float'), { code: 'usage/invalid' });
});

const row = (operatorKey: string, precision: string, time: number): LatencyRow => ({
  operatorKey,
  precision,
  minimum: time,
  median: time * 2,
  spread: 0.1,
  repeats: 3,
  throttled: false,
  energyJoules: null,
  measuredAt: '2026-01-01T00:00:00.000Z',
});

t.test('a latency table answers by operator and precision; the newest row counts', async (t) => {
  const table = new LatencyTable([row('a', 'float', 1), row('a', 'W8A8', 2)]);
  t.equal(table.median('a', 'float'), 2);
  t.equal(table.get('a', 'W4A32'), undefined);
  t.ok(Number.isNaN(table.median('b', 'float')));
  t.equal(table.median('b', 'float', 5), 5);
  table.add([row('a', 'float', 10)]);
  t.equal(table.median('a', 'float'), 20);
  t.equal(table.rows.length, 2);
});

t.test('rows at another speed of the machine keep everything but their times', async (t) => {
  const [scaled] = scaleRows([row('a', 'float', 3)], 2);
  t.strictSame(scaled, { ...row('a', 'float', 3), minimum: 6, median: 12 });
});

t.test('conversions are keyed by what they do and to which shape', async (t) => {
  t.not(conversionKey('Transpose', [1, 2, 3, 4]), conversionKey('Transpose', [1, 3, 4, 2]));
  t.not(conversionKey('QuantizeLinear', [1, 8]), conversionKey('DequantizeLinear', [1, 8]));
});
