/** A real Chromium for tests and screenshots of the web console. */
import { existsSync } from 'node:fs';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';

const executable = '/usr/bin/chromium';

/** Whether Debian's Chromium is installed. */
export const hasChromium = existsSync(executable);

/** How a page is looked at. */
export interface Look {
  readonly colours: 'light' | 'dark';
  readonly screen: 'desktop' | 'phone';
}

/** Every look. */
export const looks: readonly Look[] = (['light', 'dark'] as const).flatMap((colours) =>
  (['desktop', 'phone'] as const).map((screen) => ({ colours, screen })),
);

const sizes = { desktop: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };

/** Starts it. */
export function openBrowser(): Promise<Browser> {
  // As root, as in containers, its sandbox cannot be used.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath: executable, args: [...args, '--disable-dev-shm-usage'] });
}

/** A fresh profile with a look. */
export function openContext(browser: Browser, { colours, screen }: Look): Promise<BrowserContext> {
  return browser.newContext({
    viewport: sizes[screen],
    colorScheme: colours,
    reducedMotion: 'reduce',
    hasTouch: screen === 'phone',
    bypassCSP: false,
  });
}

/** A page of the context; `complaints` collects what its console and its requests complain of. */
export async function openPage(context: BrowserContext, complaints: string[]): Promise<Page> {
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on('console', (message) => {
    if (message.type() !== 'error' && message.type() !== 'warning') return;
    // The browser notes every 404; pages ask for what this console may not have, and say so themselves.
    if (/the server responded with a status of 404/.test(message.text())) return;
    complaints.push(`${page.url()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => complaints.push(`${page.url()}: ${error.stack ?? error.message}`));
  return page;
}

/** Goes to an address of the console and waits until it shows what it has to. */
export async function visit(page: Page, url: string): Promise<void> {
  await page.goto(url);
  await settled(page);
}

/** Waits until nothing is on its way any more. */
export async function settled(page: Page): Promise<void> {
  await page.waitForSelector('h1');
  await page.locator('.loading').first().waitFor({ state: 'detached' });
  // Charts are drawn, and what takes the focus has it, a frame later.
  await page.waitForTimeout(80);
}
