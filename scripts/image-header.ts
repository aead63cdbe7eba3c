/**
 * Writes `native/engine/image.h` from the field tables in `configs/contracts/image.ts`; with `--check`, only says whether it is as it
 * should be, by its exit code.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  bandRows,
  headerFields,
  imageMagic,
  imageVersion,
  noTable,
  operatorFields,
  operatorKinds,
  packedSlackBytes,
  regionFields,
  stageFields,
  tensorFields,
  tensorPlaces,
  tensorTypes,
} from '../configs/contracts/image.js';

const constant = (...parts: readonly string[]) =>
  ['IM', ...parts].map((part) => part.replace(/([a-z])([A-Z0-9])/g, '$1_$2').toUpperCase()).join('_');

function fields(group: string, names: readonly string[]): string {
  const lines = [...names.map((name) => `  ${constant(group, name)},`), `  ${constant(group, 'recordWords')}`];
  return `enum {\n${lines.join('\n')}\n};\n`;
}

function values(group: string, table: Readonly<Record<string, number>>): string {
  return `enum { ${Object.entries(table)
    .map(([name, value]) => `${constant(group, name)} = ${value}`)
    .join(', ')} };\n`;
}

const kinds = Object.entries(operatorKinds);
const text = [
  '/* Generated from configs/contracts/image.ts by scripts/image-header.ts; do not edit. Word numbers, in the order of the file. */\n',
  '#ifndef IM_IMAGE_H\n#define IM_IMAGE_H\n\n',
  `#define IM_MAGIC 0x${imageMagic.toString(16)}u\n#define IM_VERSION ${imageVersion}u\n#define IM_NO_TABLE 0x${noTable.toString(16)}u\n`,
  `#define IM_PACKED_SLACK_BYTES ${packedSlackBytes}u\n#define IM_BAND_ROWS ${bandRows}\n\n`,
  fields('header', headerFields),
  fields('tensor', tensorFields),
  values('type', tensorTypes),
  values('place', tensorPlaces),
  fields('stage', stageFields),
  fields('region', regionFields),
  fields('operator', operatorFields),
  values('kind', Object.fromEntries(kinds.map(([name, { code }]) => [name, code]))),
  '\n/* Fields of each kind, counted from the word behind the inputs. */\n',
  ...kinds.map(([name, kind]) => fields(name, kind.fields)),
  '\n#endif\n',
].join('');

const path = fileURLToPath(new URL('../../native/engine/image.h', import.meta.url));
if (!process.argv.includes('--check')) writeFileSync(path, text);
else if (readFileSync(path, 'utf8') !== text) {
  process.stderr.write(
    'native/engine/image.h is stale; write it again with `node dist/scripts/image-header.js` and commit it\n',
  );
  process.exit(1);
}
