/** Tables as devices send them: cut into parts by other means than the product's. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { ModelTable, TablePart } from '../../configs/contracts/tables.js';
import type { FakeDevice } from './console.js';

/** The parts of a document of a device, each of so many characters. */
export function tableParts(document: object, device: string, length = 3000, target = 'host'): TablePart[] {
  const text = gzipSync(JSON.stringify(document), { level: 9 }).toString('base64');
  const sha256 = createHash('sha256').update(text).digest('hex');
  const pieces = text.match(new RegExp(`.{1,${Math.max(length, Math.ceil(text.length / 30))}}`, 'g'))!;
  return pieces.map((piece, part) => ({
    schema: 'quantd/table-part/1',
    device,
    target,
    sha256,
    part,
    parts: pieces.length,
    text: piece,
  }));
}

/** A table of a model, as the word of a device. */
export function deviceTable(table: ModelTable, device: string): object {
  return { ...table, device, target: 'host', time: new Date(0).toISOString() };
}

/** Publishes a table, the last part first, and one of them twice. */
export async function sayTable(device: FakeDevice, table: ModelTable): Promise<void> {
  const parts = tableParts(deviceTable(table, device.id), device.id).reverse();
  for (const part of [...parts.slice(0, -1), ...parts.slice(0, 1), ...parts.slice(-1)]) await device.say('table', part);
}

/** The tables that a daemon has written beside its artifacts. */
export function tablesOf(state: string): ModelTable[] {
  const folder = join(state, 'artifacts');
  return readdirSync(folder)
    .map((key) => join(folder, key, 'table.json'))
    .map((path) => JSON.parse(readFileSync(path, 'utf8')) as ModelTable);
}
