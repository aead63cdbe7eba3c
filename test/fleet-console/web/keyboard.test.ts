/** The web console with the keyboard alone. */
import type { Page } from 'playwright-core';
import t from 'tap';
import type { Budget } from '../../../configs/contracts/plan.js';
import { until } from '../../support/broker.js';
import { hasChromium, openBrowser, openContext, openPage, visit } from '../../support/browser.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { PlainDevice } from '../../support/plain-device.js';

const mostTabs = 60;

/** Presses Tab until what has the focus is called so; answers how often. */
async function tabTo(page: Page, name: RegExp): Promise<number> {
  const focused = `(() => {
    const element = document.activeElement;
    const label = element.labels?.[0]?.textContent ?? element.textContent;
    const box = element.getBoundingClientRect();
    return { name: label.trim(), isVisible: box.width > 1 && getComputedStyle(element).outlineStyle !== 'none' };
  })()`;
  for (let count = 1; count <= mostTabs; count++) {
    await page.keyboard.press('Tab');
    const { name: now, isVisible } = (await page.evaluate(focused)) as { name: string; isVisible: boolean };
    if (!name.test(now)) continue;
    if (!isVisible) throw new Error(`${now} has the focus, and nobody sees it`);
    return count;
  }
  throw new Error(`${name} was not reached with ${mostTabs} presses of Tab`);
}

t.test('a budget is set after a what-if, without a mouse', { skip: !hasChromium && 'no Chromium' }, async (t) => {
  const console = await startConsole(t.testdir());
  t.teardown(() => console.close());
  const device = await new PlainDevice('d1', { labels: { group: 'g' }, int8Ms: 10 }).open(console.brokerUrl);
  t.teardown(() => device.close());
  await makeRelease(console, 'fire@1');
  await console.client.send('POST', '/v1/assignments', { selector: 'all', release: 'fire@1' });
  await until(() => device.active === 'fire@1', 'it runs');
  const browser = await openBrowser();
  t.teardown(() => browser.close());
  const complaints: string[] = [];
  const page = await openPage(await openContext(browser, { colours: 'light', screen: 'desktop' }), complaints);
  await visit(page, console.url);
  await tabTo(page, /^Budgets$/);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'Budgets' }).waitFor();
  await tabTo(page, /^For the devices/);
  await page.keyboard.press('Control+A');
  await page.keyboard.type('group=g');
  await page.keyboard.press('Escape');

  t.comment('what was not asked about cannot be set');
  await tabTo(page, /^Latency at most/);
  await page.keyboard.type('7');
  await tabTo(page, /^Set this budget$/);
  await page.keyboard.press('Enter');
  t.equal(await page.getByRole('dialog').count(), 0);
  t.match(await page.getByRole('button', { name: 'Set this budget' }).getAttribute('title'), /what would become/);

  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: /^What if group=g had latency ≤ 7/ }).waitFor();
  t.match(await page.getByRole('status').allTextContents(), /What if: 1 meets/);
  await tabTo(page, /^Set this budget$/);
  await page.keyboard.press('Enter');
  const dialog = page.getByRole('dialog', { name: 'Set the budget of group=g?' });
  await dialog.waitFor();
  await tabTo(page, /^Cancel$/);
  await page.keyboard.press('Enter');
  await dialog.waitFor({ state: 'detached' });
  t.match(
    await page.evaluate('document.activeElement.tagName + " " + document.activeElement.textContent'),
    /^BUTTON Set this budget/,
    'the focus is where it was',
  );
  await page.keyboard.press('Enter');
  await dialog.waitFor();
  await tabTo(page, /^Set this budget$/);
  await page.keyboard.press('Enter');
  await dialog.waitFor({ state: 'detached' });
  await page.getByText('is wanted on 1 device now').waitFor();
  const { budget } = await console.client.get<{ budget: Budget }>('/v1/budgets', { selector: 'group=g' });
  t.same(budget, { latencyMs: 7 });
  await page.getByRole('table', { name: 'Budgets that were set' }).getByText('group=g').first().waitFor();
  t.same(complaints, []);
});
