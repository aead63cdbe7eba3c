/**
 * Settings in layers: defaults, a file, the environment, flags; each later one over the earlier. One schema says what there is
 * (sections of keys, which may hold sections in turn), what is allowed and what holds by default. Pure: files and the environment are read
 * by the programs.
 */
import type { Static, TObject, TSchema } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { parse as parseToml, TomlError } from 'smol-toml';
import { EdgeError } from './contracts/errors.js';

/**
 * Sections of keys. A key that is an object is a section in a section, `outer.inner`. An optional section is absent until a layer names it;
 * only in such a one may keys be without a default, and those must then be given.
 */
export type SettingsSchema = TObject<Record<string, TObject<Record<string, TSchema>>>>;

/** Values from one place, by section and key. */
export interface Layer {
  /** For people: a path, `environment`, `flags`. */
  readonly origin: string;
  /** By section, then by key, or by section in it. */
  readonly values: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

/** Settings with where each value came from, by `section.key`. */
export interface Settings<T extends SettingsSchema> {
  readonly values: Static<T>;
  readonly origins: Readonly<Record<string, string>>;
}

/** A TOML file as a layer. Fails with `settings/invalid`, naming line and column. */
export function tomlLayer(text: string, path: string): Layer {
  let values: unknown;
  try {
    values = parseToml(text);
  } catch (cause) {
    const where = cause instanceof TomlError ? ` at line ${cause.line}, column ${cause.column}` : '';
    throw invalid(`${path} is not TOML${where}`, path, 'See configs/README.md for the form.');
  }
  for (const [section, content] of Object.entries(values as object)) {
    if (!isTable(content))
      throw invalid(`${section} stands outside any section`, path, 'Put keys below a line [section].');
  }
  return { origin: path, values: values as Layer['values'] };
}

/**
 * Variables `PREFIX__SECTION__KEY` (or `PREFIX__OUTER__INNER__KEY`) as a layer; case does not matter, `_` in names is left out of the
 * comparison, so that QUANTD__LIMITS__WORKER_MEMORY_MB is limits.workerMemoryMb. Values are converted as the schema says; lists are separated
 * by commas.
 */
export function environmentLayer(
  schema: SettingsSchema,
  prefix: string,
  environment: Readonly<Record<string, string | undefined>>,
): Layer {
  const values: Table = {};
  for (const [name, text] of Object.entries(environment)) {
    const [head, ...path] = name.split('__');
    if (head !== prefix || text === undefined || path.length < 2 || path.length > 3 || path.at(-1) === '') continue;
    let table = values;
    let section: TSchema = schema;
    path.forEach((part, depth) => {
      const { properties } = section as TObject;
      const isKey = depth === path.length - 1;
      const found = nameLike(part, Object.keys(properties));
      if (found === undefined || isSection(properties[found]!) === isKey) {
        throw invalid(`${name} names no setting`, name, suggestion(path.join('.'), schema));
      }
      section = properties[found]!;
      if (isKey) table[found] = converted(section, text, name);
      else table = (table[found] ??= {}) as Table;
    });
  }
  return { origin: 'environment', values: values as Layer['values'] };
}

/**
 * Lays the layers over the defaults and checks the result. Fails with `settings/invalid`, naming key, origin and what is allowed, also where
 * a key is missing of a section that is there.
 */
export function resolveSettings<T extends SettingsSchema>(schema: T, layers: readonly Layer[]): Settings<T> {
  const values = Value.Default(schema, {}) as Table;
  const origins: Record<string, string> = {};
  noteDefaults(schema, values, '', origins);
  for (const { origin, values: given } of layers) {
    layOver({ schema, section: schema, values, given, path: '', origin, origins });
  }
  checkComplete(schema, values, '');
  return { values: values as Static<T>, origins };
}

type Table = Record<string, unknown>;

function isSection(schema: TSchema): schema is TObject {
  return schema.type === 'object';
}

function noteDefaults(section: TObject, values: Table, path: string, origins: Record<string, string>): void {
  for (const [key, of] of Object.entries(section.properties)) {
    if (!isSection(of)) origins[`${path}${key}`] = 'default';
    else if (values[key] !== undefined) noteDefaults(of, values[key] as Table, `${path}${key}.`, origins);
  }
}

interface Laying {
  /** The whole, for suggestions. */
  readonly schema: SettingsSchema;
  readonly section: TObject;
  readonly values: Table;
  readonly given: Readonly<Table>;
  /** Of the section, with a dot behind it; empty for the whole. */
  readonly path: string;
  readonly origin: string;
  readonly origins: Record<string, string>;
}

function layOver({ schema, section, values, given, path, origin, origins }: Laying): void {
  for (const [key, value] of Object.entries(given)) {
    const name = `${path}${key}`;
    const of = Object.hasOwn(section.properties, key) ? section.properties[key]! : undefined;
    if (of === undefined && path === '') {
      // A section that is not there is told with the key that was meant in it.
      const [first = ''] = isTable(value) ? Object.keys(value as Table) : [];
      throw unknownSetting(schema, `${name}.${first}`, origin);
    }
    if (of === undefined) throw unknownSetting(schema, name, origin);
    if (isSection(of)) {
      if (!isTable(value)) throw invalid(`${origin}: ${name} is a section`, name, `Put keys below a line [${name}].`);
      if (values[key] === undefined) {
        values[key] = Value.Default(of, {}) as Table;
        noteDefaults(of, values[key] as Table, `${name}.`, origins);
      }
      const inner = { section: of, values: values[key] as Table, given: value as Table, path: `${name}.` };
      layOver({ schema, origin, origins, ...inner });
      continue;
    }
    if (!Value.Check(of, value)) {
      throw invalid(`${origin}: ${name} cannot be ${JSON.stringify(value)?.slice(0, 80)}`, name, allowed(of));
    }
    values[key] = value;
    origins[name] = origin;
  }
}

function unknownSetting(schema: SettingsSchema, name: string, origin: string): EdgeError {
  return invalid(`${origin}: there is no setting ${name}`, name, suggestion(name, schema));
}

/** Keys without a default, of sections that are there. */
function checkComplete(section: TObject, values: Table, path: string): void {
  for (const [key, of] of Object.entries(section.properties)) {
    const value = values[key];
    if (isSection(of)) {
      if (value !== undefined) checkComplete(of, value as Table, `${path}${key}.`);
    } else if (value === undefined) {
      throw invalid(`${path}${key} is not set, and [${path.slice(0, -1)}] needs it`, `${path}${key}`, allowed(of));
    }
  }
}

function isTable(value: unknown): boolean {
  return value !== null && typeof value === 'object' && !Array.isArray(value) && !('toISOString' in value);
}

function plain(name: string): string {
  return name.replaceAll('_', '').toLowerCase();
}

function nameLike(name: string, names: readonly string[]): string | undefined {
  return names.find((candidate) => plain(candidate) === plain(name));
}

function converted(schema: TSchema, text: string, name: string): unknown {
  if (schema.type === 'integer' || schema.type === 'number') {
    const number = Number(text);
    if (text.trim() === '' || Number.isNaN(number)) throw invalid(`${name} is not a number`, name, allowed(schema));
    return number;
  }
  if (schema.type === 'boolean') {
    if (!/^(true|false|1|0)$/i.test(text)) throw invalid(`${name} is neither true nor false`, name, allowed(schema));
    return /^(true|1)$/i.test(text);
  }
  if (schema.type === 'array') return text === '' ? [] : text.split(',').map((item) => item.trim());
  return text;
}

/** What a key may be, for people. */
function allowed(schema: TSchema): string {
  const { minimum, maximum, pattern, anyOf, items } = schema as {
    minimum?: number;
    maximum?: number;
    pattern?: string;
    anyOf?: { const?: unknown }[];
    items?: { anyOf?: { const?: unknown }[] };
  };
  const choices = anyOf ?? items?.anyOf;
  if (choices !== undefined) {
    const listed = choices.map((choice) => JSON.stringify(choice.const)).join(', ');
    return anyOf === undefined ? `Allowed: a list of ${listed}.` : `Allowed: ${listed}.`;
  }
  const bounds = [
    minimum === undefined ? '' : `at least ${minimum}`,
    maximum === undefined ? '' : `at most ${maximum}`,
  ];
  const words = [`Allowed: ${schema.type}`, ...bounds.filter((bound) => bound !== '')];
  return `${words.join(', ')}${pattern === undefined ? '' : `, like ${pattern}`}.`;
}

/** The known name that is most like a wrong one. */
function suggestion(name: string, schema: SettingsSchema): string {
  const [best] = namesOf(schema, '')
    .map((candidate) => ({ candidate, distance: editDistance(plain(candidate), plain(name)) }))
    .sort((a, b) => a.distance - b.distance);
  return best === undefined ? 'There are no settings.' : `Did you mean ${best.candidate}?`;
}

function namesOf({ properties }: TObject, path: string): string[] {
  return Object.entries(properties).flatMap(([key, of]) =>
    isSection(of) ? namesOf(of, `${path}${key}.`) : [`${path}${key}`],
  );
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      row.push(Math.min(previous[j]! + 1, row[j - 1]! + 1, previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    previous = row;
  }
  return previous[b.length]!;
}

function invalid(message: string, subject: string, hint: string): EdgeError {
  return new EdgeError('settings/invalid', message, { subject, hint });
}
