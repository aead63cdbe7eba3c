/**
 * `npm run screenshots -- FOLDER [PAGE...]`: pictures of every page of the web console, or of those that are named, light and dark, on a desktop
 * and on a phone, over a live console with a fleet that is made up. Needs Debian's Chromium.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hasChromium, looks, openBrowser, openContext, openPage, visit } from '../test/support/browser.js';
import { startShowFleet } from '../test/support/show-fleet.js';

async function main(): Promise<void> {
  const [folder, ...names] = process.argv.slice(2);
  if (folder === undefined || !hasChromium) {
    process.stderr.write('usage: npm run screenshots -- FOLDER [PAGE...]; needs the Debian package chromium\n');
    process.exitCode = 2;
    return;
  }
  mkdirSync(folder, { recursive: true });
  const state = mkdtempSync(join(tmpdir(), 'quantd-screenshots-'));
  const fleet = await startShowFleet(state);
  const browser = await openBrowser();
  const complaints: string[] = [];
  try {
    for (const look of looks) {
      const context = await openContext(browser, look);
      const page = await openPage(context, complaints);
      for (const [name, path] of Object.entries(fleet.pages)) {
        if (names.length > 0 && !names.includes(name)) continue;
        await visit(page, `${fleet.url}${path}`);
        if (name === 'budgets') {
          await page.getByLabel('Latency at most').fill('5');
          await page.getByRole('button', { name: 'What if?' }).click();
          await page.getByRole('heading', { name: /^What if all had/ }).waitFor();
        }
        await page.screenshot({ path: join(folder, `${name}-${look.screen}-${look.colours}.png`), fullPage: true });
      }
      await context.close();
    }
  } finally {
    await browser.close();
    await fleet.close();
    rmSync(state, { recursive: true, force: true });
  }
  for (const complaint of complaints) process.stderr.write(`${complaint}\n`);
  process.exitCode = complaints.length === 0 ? 0 : 1;
}

await main();
