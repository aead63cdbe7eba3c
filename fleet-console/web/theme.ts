/** Light or dark: as the system has it, until somebody switches. */

/** What somebody has chosen; `system` until then. */
export type Theme = 'system' | 'light' | 'dark';

const key = 'theme';
const changed = new EventTarget();
const dark = matchMedia('(prefers-color-scheme: dark)');

/** What was chosen. */
export function currentTheme(): Theme {
  const stored = localStorage.getItem(key);
  return stored === 'light' || stored === 'dark' ? stored : 'system';
}

/** Whether the page is dark now. */
export function isDark(): boolean {
  const theme = currentTheme();
  return theme === 'system' ? dark.matches : theme === 'dark';
}

/** Chooses, for this browser. */
export function chooseTheme(theme: Theme): void {
  if (theme === 'system') localStorage.removeItem(key);
  else localStorage.setItem(key, theme);
  applyTheme();
  changed.dispatchEvent(new Event('change'));
}

/** Puts the choice on the page. */
export function applyTheme(): void {
  document.documentElement.dataset.theme = currentTheme();
}

/** Calls `work` whenever the page becomes light or dark; answers how to end that. */
export function onThemeChange(work: () => void): () => void {
  changed.addEventListener('change', work);
  dark.addEventListener('change', work);
  return () => {
    changed.removeEventListener('change', work);
    dark.removeEventListener('change', work);
  };
}
