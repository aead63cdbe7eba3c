/** Gates of power and temperature: from what sensors say to whether they are open. Pure. */
import type { GateReading } from './decide.js';

/** What the system says of its power supplies. */
export interface PowerState {
  /** null where no supply says. */
  readonly isOnMains: boolean | null;
  /** Charge of the emptiest battery; null where there is none that says. */
  readonly percent: number | null;
}

/** See `gates.power` of the settings. */
export interface PowerLimits {
  readonly leastPercent: number;
  readonly mains: 'enough' | 'required' | 'ignored';
}

/** Whether there is power enough. What has to be known and is not makes it unreadable. */
export function judgePower({ isOnMains, percent }: PowerState, { leastPercent, mains }: PowerLimits): GateReading {
  const battery = percent === null ? 'no battery' : `battery at ${percent} %`;
  const says = (isOpen: boolean | null, reason: string): GateReading => ({ isOpen, reason, until: null });
  if (mains === 'enough' && isOnMains === true) return says(true, `on mains, ${battery}`);
  if (mains === 'required') {
    if (isOnMains === null) return says(null, 'no supply says whether there are mains');
    if (!isOnMains) return says(false, `not on mains, ${battery}`);
    if (percent === null) return says(true, 'on mains, no battery');
  }
  if (percent === null) return says(null, 'no battery says how full it is');
  const isEnough = percent >= leastPercent;
  return says(isEnough, isEnough ? battery : `${battery}, less than ${leastPercent} %`);
}

/** See `gates.temperature` of the settings. */
export interface TemperatureLimits {
  readonly mostCelsius: number;
  readonly hysteresisCelsius: number;
}

/**
 * Whether it is cool enough. Once it was too hot, it has to be cooler than the limit by the hysteresis.
 *
 * @param celsius of the hottest zone; null where none can be read
 * @param wasTooHot at the look before
 */
export function judgeTemperature(
  celsius: number | null,
  wasTooHot: boolean,
  { mostCelsius, hysteresisCelsius }: TemperatureLimits,
): GateReading {
  if (celsius === null) return { isOpen: null, reason: 'no thermal zone can be read', until: null };
  const limit = wasTooHot ? mostCelsius - hysteresisCelsius : mostCelsius;
  const isOpen = celsius <= limit;
  const detail = `${celsius.toFixed(1)} °C`;
  if (isOpen) return { isOpen, reason: `not hotter than ${mostCelsius} °C`, until: null, detail };
  const again = hysteresisCelsius === 0 ? '' : `; open again at ${mostCelsius - hysteresisCelsius} °C`;
  return { isOpen, reason: `hotter than ${mostCelsius} °C${again}`, until: null, detail };
}
