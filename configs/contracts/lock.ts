import { type Static, Type } from '@sinclair/typebox';

/**
 * A lock file as `quantd lock` writes it, and any program may. A file that is no JSON is a lock as well: its first line is the reason.
 * Unknown fields are ignored.
 */
export const LockDocument = Type.Object({
  /** Who holds it, for people. */
  owner: Type.String({ minLength: 1, maxLength: 128 }),
  reason: Type.String({ minLength: 1, maxLength: 1000 }),
  /** ISO 8601 with a time zone. Absent: for as long as the device's settings say, from when the file was written. */
  until: Type.Optional(
    Type.String({ pattern: '^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}(:\\d{2}(\\.\\d{1,9})?)?(Z|[+-]\\d{2}:\\d{2})$' }),
  ),
});
export type LockDocument = Static<typeof LockDocument>;
