import type { Static, TSchema } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { EdgeError, type ErrorCode } from './errors.js';

/** Checks a JSON value against its contract. Fails with `code`, naming the first field that is wrong. */
export function validate<T extends TSchema>(schema: T, value: unknown, code: ErrorCode, subject: string): Static<T> {
  if (Value.Check(schema, value)) return value as Static<T>;
  const first = Value.Errors(schema, value).First();
  const where = first?.path ? `field ${first.path}` : 'the document';
  throw new EdgeError(code, `${where}: ${first?.message ?? 'does not fit the schema'}`, { subject });
}

/** `validate`, and answers a copy without the fields that the contract does not know (where it does not allow others itself). */
export function validateKnown<T extends TSchema>(
  schema: T,
  value: unknown,
  code: ErrorCode,
  subject: string,
): Static<T> {
  return Value.Clean(schema, Value.Clone(validate(schema, value, code, subject))) as Static<T>;
}
