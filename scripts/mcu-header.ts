/**
 * Writes `firmware-bridge/firmware/protocol.h` from the tables in `configs/contracts/mcu.ts`; with `--check`, only says whether it is as it
 * should be, by its exit code.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  commands,
  counters,
  type Fields,
  type FieldType,
  failureFields,
  fieldBytes,
  frameBytes,
  headerFields,
  mostRuns,
  noSlot,
  pieceBytes,
  preloadedSlot,
  protocolVersion,
  recordBytes,
  starts,
  statuses,
} from '../configs/contracts/mcu.js';

const snake = (name: string) => name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toLowerCase();
const constant = (...parts: readonly string[]) => ['MC', ...parts].map((part) => snake(part).toUpperCase()).join('_');

function values(group: string, table: Readonly<Record<string, number>>): string {
  const lines = Object.entries(table).map(([name, value]) => `  ${constant(group, name)} = ${value}`);
  return `enum {\n${lines.join(',\n')}\n};\n`;
}

const members: Readonly<Record<Exclude<FieldType, 'data'>, (name: string) => string>> = {
  u16: (name) => `uint16_t ${name};`,
  u32: (name) => `uint32_t ${name};`,
  u64: (name) => `uint64_t ${name};`,
  sha256: (name) => `uint8_t ${name}[32];`,
  text32: (name) => `char ${name}[32];`,
};

/** The structure of a record, or nothing where C has no word for it: a structure without members. */
function structure(name: string, fields: Fields): string {
  const fixed = Object.entries(fields).filter(([, type]) => type !== 'data') as [string, Exclude<FieldType, 'data'>][];
  let at = 0;
  for (const [field, type] of fixed) {
    if (at % Math.min(fieldBytes(type), 8) !== 0 && type !== 'sha256' && type !== 'text32')
      throw new Error(`${name}.${field} is not aligned`);
    at += fieldBytes(type);
  }
  if (fixed.length === 0) return '';
  const lines = fixed.map(([field, type]) => `  ${members[type](snake(field))}`);
  return `typedef struct {\n${lines.join('\n')}\n} mc_${name};\n_Static_assert(sizeof(mc_${name}) == ${at}, "as on the wire");\n`;
}

const rows = Object.entries(commands).map(([name, { code, takesLong, request, reply }]) => {
  const takesData = 'data' in request;
  return `  X(${[snake(name), code, recordBytes(request), Number(takesData), recordBytes(reply), Number(takesLong)].join(', ')})`;
});
const structures = Object.entries(commands).flatMap(([name, { request, reply }]) => [
  structure(`${snake(name)}_request`, request),
  structure(`${snake(name)}_reply`, reply),
]);

const text = [
  '/* Generated from configs/contracts/mcu.ts by scripts/mcu-header.ts; do not edit. Records as they lie on the wire, little-endian. */\n',
  '#ifndef MC_PROTOCOL_H\n#define MC_PROTOCOL_H\n\n#include <stdint.h>\n\n',
  '_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are used where they lie");\n\n',
  `#define MC_VERSION ${protocolVersion}u\n#define MC_PIECE_BYTES ${pieceBytes}u\n#define MC_FRAME_BYTES ${frameBytes}u\n`,
  `#define MC_NO_SLOT 0x${noSlot.toString(16)}u\n#define MC_PRELOADED_SLOT ${preloadedSlot}u\n#define MC_MOST_RUNS ${mostRuns}u\n\n`,
  values('status', statuses),
  values('counter', counters),
  values('start', starts),
  '\n/* X(name, number, bytes of the request, whether data follows them, bytes of the reply, whether it may take long) */\n',
  `#define MC_COMMANDS(X) \\\n${rows.join(' \\\n')}\n\n`,
  structure('header', headerFields),
  structure('failure', failureFields),
  ...structures,
  '\n#endif\n',
].join('');

const path = fileURLToPath(new URL('../../firmware-bridge/firmware/protocol.h', import.meta.url));
if (!process.argv.includes('--check')) writeFileSync(path, text);
else if (readFileSync(path, 'utf8') !== text) {
  process.stderr.write(
    'firmware-bridge/firmware/protocol.h is stale; write it again with `node dist/scripts/mcu-header.js` and commit it\n',
  );
  process.exit(1);
}
