/** Selectors: which devices something is meant for. Pure. */
import { EdgeError } from '../configs/contracts/errors.js';

/** What a selector looks at. */
export interface Selectable {
  readonly id: string;
  /** `group` among them. */
  readonly labels: Readonly<Record<string, string>>;
}

/** A parsed selector: all its terms must hold. */
export interface Selector {
  /** The same for all ways to write one selector; what it is stored under. */
  readonly text: string;
  readonly terms: readonly { readonly name: string; readonly value: string }[];
}

/** Forms of a selector, for help and hints. */
export const selectorForms = 'all, device=ID, group=NAME, LABEL=VALUE; a comma means and';

/** Parses `all`, `device=ID`, `group=NAME`, `label=value`, and comma lists of these. Fails with `selector/invalid`. */
export function parseSelector(text: string): Selector {
  const parts = text.split(',').map((part) => part.trim());
  const terms = parts
    .filter((part) => part !== 'all')
    .map((part) => {
      const match = /^([A-Za-z0-9_.-]{1,64})=(.{1,128})$/.exec(part);
      if (match === null) {
        throw new EdgeError('selector/invalid', `"${part}" is no part of a selector`, {
          subject: text,
          hint: `Forms: ${selectorForms}.`,
        });
      }
      return { name: match[1]!, value: match[2]!.trim() };
    })
    .sort((a, b) => (a.name === b.name ? (a.value < b.value ? -1 : 1) : a.name < b.name ? -1 : 1));
  const written = [...new Set(terms.map(({ name, value }) => `${name}=${value}`))];
  return { text: written.length === 0 ? 'all' : written.join(','), terms };
}

/** Whether a device is meant. */
export function matches({ terms }: Selector, device: Selectable): boolean {
  return terms.every(({ name, value }) =>
    name === 'device' ? device.id === value : Object.hasOwn(device.labels, name) && device.labels[name] === value,
  );
}

/** Precedence of a selector over others: a device's own (2) before groups and labels (1) before all (0). */
export function rankOf({ terms }: Selector): 0 | 1 | 2 {
  if (terms.some(({ name }) => name === 'device')) return 2;
  return terms.length > 0 ? 1 : 0;
}
