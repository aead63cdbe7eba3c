/** Every page of the web console in a real Chromium, light and dark, on a desktop and on a phone: usable by everybody, and without complaints. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { AxeResults } from 'axe-core';
import type { Page } from 'playwright-core';
import t from 'tap';
import { hasChromium, looks, openBrowser, openContext, openPage, visit } from '../../support/browser.js';
import { startShowFleet } from '../../support/show-fleet.js';

const axe = readFileSync(fileURLToPath(import.meta.resolve('axe-core/axe.min.js')), 'utf8');

/** What axe finds on a page that somebody would stumble over. */
async function barriers(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  const { violations } = (await page.evaluate('axe.run()')) as AxeResults;
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' | ')}`);
}

const widthBeyond = 'document.documentElement.scrollWidth - document.documentElement.clientWidth';

t.test(
  'pages have no barriers, complain of nothing and fit a phone',
  { skip: !hasChromium && 'no Chromium' },
  async (t) => {
    const fleet = await startShowFleet(t.testdir(), 15);
    t.teardown(() => fleet.close());
    const browser = await openBrowser();
    t.teardown(() => browser.close());
    for (const look of looks) {
      const complaints: string[] = [];
      const context = await openContext(browser, look);
      const page = await openPage(context, complaints);
      for (const [name, path] of Object.entries(fleet.pages)) {
        const place = `${name}, ${look.screen}, ${look.colours}`;
        await visit(page, `${fleet.url}${path}`);
        t.same(await barriers(page), [], place);
        t.equal(await page.evaluate(widthBeyond), 0, `${place}: no sideways scrolling`);
        t.equal(await page.locator('h1').count(), 1, `${place}: one heading`);
        t.match(await page.title(), / – Quantd fleet$/, place);
      }
      // What is open over a page is part of it.
      await visit(page, `${fleet.url}${fleet.pages['rollout-waiting']}`);
      await page.getByRole('button', { name: 'Roll back' }).click();
      await page.getByRole('dialog').waitFor();
      t.same(await barriers(page), [], `a question, ${look.screen}, ${look.colours}`);
      await page.keyboard.press('Escape');
      await visit(page, `${fleet.url}/budgets`);
      await page.getByLabel('Latency at most').fill('5');
      await page.getByRole('button', { name: 'What if?' }).click();
      await page.getByRole('heading', { name: /^What if all had/ }).waitFor();
      await page
        .getByRole('button', { name: /^Frontier of/ })
        .first()
        .click();
      await page.locator('figure .chart canvas').first().waitFor();
      t.same(await barriers(page), [], `an answer, ${look.screen}, ${look.colours}`);
      t.equal(await page.evaluate(widthBeyond), 0, `an answer, ${look.screen}: no sideways scrolling`);
      t.same(complaints, [], `${look.screen}, ${look.colours}`);
      await context.close();
    }
  },
);

t.test(
  'the switch of colours holds, and going to a page moves the focus to its heading',
  { skip: !hasChromium && 'no Chromium' },
  async (t) => {
    const fleet = await startShowFleet(t.testdir(), 9);
    t.teardown(() => fleet.close());
    const browser = await openBrowser();
    t.teardown(() => browser.close());
    const complaints: string[] = [];
    const page = await openPage(await openContext(browser, { colours: 'light', screen: 'desktop' }), complaints);
    await visit(page, fleet.url);
    const ground = () => page.evaluate('getComputedStyle(document.body).backgroundColor');
    const light = await ground();
    const button = page.getByRole('button', { name: /^Colours/ });
    await button.click();
    t.equal(await ground(), light, 'light, as the system');
    await button.click();
    t.not(await ground(), light);
    await page.reload();
    await page.waitForSelector('h1');
    t.not(await ground(), light, 'it is still dark');

    await page.getByRole('link', { name: 'Devices', exact: true }).click();
    await page.getByRole('heading', { level: 1, name: 'Devices' }).waitFor();
    t.equal(await page.evaluate('document.activeElement.tagName'), 'H1');
    t.match(page.url(), /\/devices$/);
    await page.goBack();
    await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
    t.equal(await page.getByRole('link', { name: 'Overview' }).getAttribute('aria-current'), 'page');

    t.comment('search and paging are asked of the server, and stand in the address');
    await page.goto(`${fleet.url}/devices`);
    await page.getByLabel('Search').fill('drone-00');
    await page.waitForURL(/search=drone-00/);
    await page.getByText('5 devices').waitFor();
    await page.getByLabel('Selector').fill('site=');
    await page.getByRole('alert').getByText('selector/invalid').waitFor();
    await page.getByLabel('Selector').fill('site=lake');
    await page.getByText(/^2 devices$/).waitFor();
    t.same(
      complaints.filter((text) => !/status of 400/.test(text)),
      [],
    );
  },
);
