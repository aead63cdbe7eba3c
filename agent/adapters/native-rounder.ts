import { roundLayer } from '../../native/index.js';
import type { Rounder } from '../ports.js';

/** Rounds weights in the addon. */
export const nativeRounder: Rounder = { round: roundLayer };
