/**
 * Settings in layers: defaults, a file, the environment, flags; each later one over the earlier. One schema says what there is
 * (sections of keys), what is allowed and what holds by default. Pure: files and the environment are read by the programs.
 */
import type { Static, TObject, TSchema } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { parse as parseToml, TomlError } from 'smol-toml';
import { EdgeError } from './contracts/errors.js';

/** Sections of keys; every key has a default. */
export type SettingsSchema = TObject<Record<string, TObject<Record<string, TSchema>>>>;

/** Values from one place, by section and key. */
export interface Layer {
  /** For people: a path, `environment`, `flags`. */
  readonly origin: string;
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
 * Variables `PREFIX__SECTION__KEY` as a layer; case does not matter, `_` in names is left out of the comparison, so that
 * QUANTD__LIMITS__WORKER_MEMORY_MB is limits.workerMemoryMb. Values are converted as the schema says; lists are separated by commas.
 */
export function environmentLayer(
  schema: SettingsSchema,
  prefix: string,
  environment: Readonly<Record<string, string | undefined>>,
): Layer {
  const values: Record<string, Record<string, unknown>> = {};
  for (const [name, text] of Object.entries(environment)) {
    const [head, section = '', key = '', ...rest] = name.split('__');
    if (head !== prefix || text === undefined || rest.length > 0 || key === '') continue;
    const sectionName = nameLike(section, Object.keys(schema.properties));
    const keys = sectionName === undefined ? [] : Object.keys(schema.properties[sectionName]!.properties);
    const keyName = nameLike(key, keys);
    if (sectionName === undefined || keyName === undefined) {
      throw invalid(`${name} names no setting`, name, suggestion(`${section}.${key}`, schema));
    }
    const of = schema.properties[sectionName]!.properties[keyName]!;
    values[sectionName] = { ...values[sectionName], [keyName]: converted(of, text, name) };
  }
  return { origin: 'environment', values };
}

/** Lays the layers over the defaults and checks the result. Fails with `settings/invalid`, naming key, origin and what is allowed. */
export function resolveSettings<T extends SettingsSchema>(schema: T, layers: readonly Layer[]): Settings<T> {
  const values = Value.Default(schema, {}) as Record<string, Record<string, unknown>>;
  const origins: Record<string, string> = {};
  for (const [section, { properties }] of Object.entries(schema.properties)) {
    for (const key of Object.keys(properties)) origins[`${section}.${key}`] = 'default';
  }
  for (const { origin, values: given } of layers) {
    for (const [section, keys] of Object.entries(given)) {
      for (const [key, value] of Object.entries(keys)) {
        const of = Object.hasOwn(schema.properties, section) ? schema.properties[section]!.properties : {};
        if (!Object.hasOwn(of, key)) {
          throw invalid(
            `${origin}: there is no setting ${section}.${key}`,
            `${section}.${key}`,
            suggestion(`${section}.${key}`, schema),
          );
        }
        if (!Value.Check(of[key]!, value)) {
          const shown = JSON.stringify(value)?.slice(0, 80);
          throw invalid(`${origin}: ${section}.${key} cannot be ${shown}`, `${section}.${key}`, allowed(of[key]!));
        }
        values[section] = { ...values[section], [key]: value };
        origins[`${section}.${key}`] = origin;
      }
    }
  }
  return { values: values as Static<T>, origins };
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
  const { minimum, maximum, pattern, anyOf } = schema as {
    minimum?: number;
    maximum?: number;
    pattern?: string;
    anyOf?: { const?: unknown }[];
  };
  if (anyOf !== undefined) return `Allowed: ${anyOf.map((choice) => JSON.stringify(choice.const)).join(', ')}.`;
  const bounds = [
    minimum === undefined ? '' : `at least ${minimum}`,
    maximum === undefined ? '' : `at most ${maximum}`,
  ];
  const words = [`Allowed: ${schema.type}`, ...bounds.filter((bound) => bound !== '')];
  return `${words.join(', ')}${pattern === undefined ? '' : `, like ${pattern}`}.`;
}

/** The known name that is most like a wrong one. */
function suggestion(name: string, schema: SettingsSchema): string {
  const names = Object.entries(schema.properties).flatMap(([first, { properties }]) =>
    Object.keys(properties).map((second) => `${first}.${second}`),
  );
  const [best] = names
    .map((candidate) => ({ candidate, distance: editDistance(plain(candidate), plain(name)) }))
    .sort((a, b) => a.distance - b.distance);
  return best === undefined ? 'There are no settings.' : `Did you mean ${best.candidate}?`;
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
