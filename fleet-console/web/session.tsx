/** Who uses the console, and what that role allows. */
import { createContext } from 'preact';
import { useContext } from 'preact/hooks';
import type { Role, SessionDocument } from '../../configs/contracts/people.js';

export type { Role } from '../../configs/contracts/people.js';

/** Who uses the page; null before that is known. */
export const SessionContext = createContext<SessionDocument | null>(null);

const ranks: Readonly<Record<Role, number>> = { device: 0, viewer: 1, operator: 2, admin: 3 };

/** Why somebody may not do what needs a role; null where they may. */
export function useRefusal(needed: Role): string | null {
  const session = useContext(SessionContext);
  if (session === null || ranks[session.role] >= ranks[needed]) return null;
  return `This needs the role ${needed}; ${session.name} is ${session.role}.`;
}
