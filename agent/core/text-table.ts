/** Columns padded to their widest cell; numbers right-aligned. Cells are plain text. `emphasize` may mark the header line. */
export function textTable(
  header: readonly string[],
  rows: readonly (readonly (string | number | null)[])[],
  emphasize: (text: string) => string = (text) => text,
): string {
  const text = rows.map((row) => row.map((cell) => (cell === null ? '-' : String(cell))));
  const widths = header.map((name, column) => Math.max(name.length, ...text.map((row) => row[column]?.length ?? 0)));
  const isNumeric = header.map((_, column) =>
    text.every((row) => row[column] === '-' || /^-?[\d.]+( ?\S{1,3})?$/.test(row[column] ?? '')),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (isNumeric[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd();
  return [emphasize(line(header)), ...text.map(line)].join('\n');
}
