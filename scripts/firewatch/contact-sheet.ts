/** Writes a PNG of many tiles, a row per class in turn, to look at. Usage: contact-sheet.js FILE [first seed] [columns] [rows]. */

import sharp from 'sharp';
import { makeTile, seedRanges, tileSize } from './tiles.js';

const [file = 'tiles.png', first = String(seedRanges.validation), columns = '12', rows = '9'] = process.argv.slice(2);
const width = Number(columns) * tileSize;
const height = Number(rows) * tileSize;
const sheet = new Uint8Array(width * height * 3);
for (let row = 0; row < Number(rows); row++) {
  for (let column = 0; column < Number(columns); column++) {
    const index = Math.floor(row / 3) * Number(columns) + column;
    const start = Number(first) - (Number(first) % 3);
    const { pixels } = makeTile(start + index * 3 + (row % 3));
    for (let y = 0; y < tileSize; y++) {
      const line = pixels.subarray(y * tileSize * 3, (y + 1) * tileSize * 3);
      sheet.set(line, ((row * tileSize + y) * width + column * tileSize) * 3);
    }
  }
}
await sharp(sheet, { raw: { width, height, channels: 3 } })
  .png()
  .toFile(file);
