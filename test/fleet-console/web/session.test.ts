/** Who is logged in, as the web console shows it. */
import type { Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { hasChromium, openBrowser, openContext, openPage, settled } from '../../support/browser.js';
import { makeRelease, startConsole } from '../../support/console.js';
import { addAccount, cookieOf, login, passwordOf } from '../../support/people.js';

const skip = !hasChromium && 'no Chromium';

/** A console with a release, an admin ada and a viewer vic, and a page of it. */
async function start(t: Test) {
  const console = await startConsole(t.testdir());
  t.teardown(() => console.close());
  await makeRelease(console, 'fire@1');
  await addAccount(console.url, 'ada', 'admin');
  await addAccount(console.url, 'vic', 'viewer', cookieOf(await login(console.url, 'ada')));
  const browser = await openBrowser();
  t.teardown(() => browser.close());
  const complaints: string[] = [];
  const page = await openPage(await openContext(browser, { colours: 'light', screen: 'desktop' }), complaints);
  await page.goto(`${console.url}/releases`);
  await settled(page);
  return { console, page, complaints };
}

async function logIn(page: Page, name: string, password = passwordOf(name)): Promise<void> {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill(password);
  await page.getByRole('button', { name: 'Log in' }).click();
}

t.test('who is not logged in is asked to, and comes to the page that was wanted', { skip }, async (t) => {
  const { page, complaints } = await start(t);
  await page.getByRole('heading', { level: 1, name: 'Log in to the fleet' }).waitFor();
  t.equal(await page.getByRole('navigation').count(), 0);
  await logIn(page, 'ada', 'a wrong password');
  await page.getByRole('alert').getByText('login/refused').waitFor();
  await logIn(page, 'ada');
  await page.getByRole('heading', { level: 1, name: 'Releases' }).waitFor();
  await page.getByText('ada (admin)').waitFor();
  await page.getByText('live', { exact: true }).waitFor();

  t.comment('what was done stands in the audit, whose chain is whole');
  await page.getByRole('link', { name: 'Audit' }).click();
  await page.getByRole('table', { name: 'Changes, newest first' }).getByText('session.login').first().waitFor();
  await page.getByRole('button', { name: 'Verify the chain' }).click();
  await page.getByText(/^All \d+ entries are as they were written/).waitFor();
  await page.getByLabel('Action').fill('account.add');
  await page.getByText('session.login').first().waitFor({ state: 'detached' });

  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('heading', { level: 1, name: 'Log in to the fleet' }).waitFor();
  t.same(
    complaints.filter((text) => !/status of 401/.test(text)),
    [],
  );
});

t.test('what a role does not allow is shown, cannot be used, and says why', { skip }, async (t) => {
  const { page } = await start(t);
  await logIn(page, 'vic');
  const assign = page.getByRole('button', { name: 'Assign fire@1' });
  t.equal(await assign.getAttribute('aria-disabled'), 'true');
  await assign.click({ force: true });
  t.equal(await page.getByRole('dialog').count(), 0);
  const why = await page.getByRole('row', { name: /fire@1/ }).innerText();
  t.match(why, 'This needs the role operator; vic is viewer.');
});

t.test('a session that ends while somebody looks leads to the log-in', { skip }, async (t) => {
  const { page, console } = await start(t);
  await logIn(page, 'vic');
  await page.getByRole('heading', { level: 1, name: 'Releases' }).waitFor();
  await page.context().clearCookies();
  await page.getByRole('link', { name: 'Devices' }).click();
  await page.getByRole('heading', { level: 1, name: 'Log in to the fleet' }).waitFor();
  t.equal(page.url(), `${console.url}/devices`);
});
