/** Tables that become lists of cards on a phone. */
import type { ComponentChildren } from 'preact';

/** A column: what it is called, what stands in it. */
export interface Column<Row> {
  readonly name: string;
  readonly cell: (row: Row) => ComponentChildren;
  /** Right-aligned, digits of one width. */
  readonly isNumber?: boolean;
}

/** A table; the first column names the row. `caption` is for those who do not see the heading above it. */
export function Table<Row>({
  caption,
  columns,
  rows,
  keyOf,
}: {
  caption: string;
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  keyOf: (row: Row) => string | number;
}) {
  return (
    <table class="cards">
      <caption class="hidden">{caption}</caption>
      <thead>
        <tr>
          {columns.map(({ name, isNumber }) => (
            <th key={name} scope="col" class={isNumber ? 'number' : undefined}>
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((row) => (
          <tr key={keyOf(row)}>
            {columns.map(({ name, cell, isNumber }, index) =>
              index === 0 ? (
                <th key={name} scope="row">
                  {cell(row)}
                </th>
              ) : (
                <td key={name} class={isNumber ? 'number' : undefined} data-label={name}>
                  <div>{cell(row)}</div>
                </td>
              ),
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Goes through a list page by page. `starts`: where the pages until this one begin. */
export function Pager({
  total,
  shown,
  next,
  hasBefore,
  onNext,
  onFirst,
}: {
  total: number | null;
  shown: number;
  next: string | number | null;
  hasBefore: boolean;
  onNext: () => void;
  onFirst: () => void;
}) {
  if (next === null && !hasBefore) return null;
  return (
    <nav class="pager" aria-label="Pages">
      <button type="button" class="button" onClick={onFirst} disabled={!hasBefore}>
        First page
      </button>
      <button type="button" class="button" onClick={onNext} disabled={next === null}>
        Next page
      </button>
      <span>
        {shown.toLocaleString('en')} shown{total === null ? '' : ` of ${total.toLocaleString('en')}`}
      </span>
    </nav>
  );
}
