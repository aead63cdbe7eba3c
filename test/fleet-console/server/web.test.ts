/** The web console as the server gives it out: one page for all its addresses, files that can be kept, nothing from elsewhere. */
import t from 'tap';
import { startConsole } from '../../support/console.js';

t.test('every address of the web console answers the page, and unknown ones do not', async (t) => {
  const console = await startConsole(t.testdir());
  for (const path of [
    '/',
    '/devices',
    '/devices/some-device',
    '/rollouts/7?state=failed',
    '/releases/compare',
    '/audit',
  ]) {
    const answer = await fetch(`${console.url}${path}`);
    t.equal(answer.status, 200, path);
    t.match(answer.headers.get('content-type'), /^text\/html/);
    t.match(await answer.text(), /<title>Quantd fleet<\/title>/);
  }
  for (const path of ['/nothing', '/v1/nothing', '/assets/nothing.js', '/assets/..%2f..%2fmain.js'])
    t.equal((await fetch(`${console.url}${path}`)).status, 404, path);
  await console.close();
});

t.test(
  'the page takes everything from this console: files by digest, kept for good, under a policy without inline code',
  async (t) => {
    const console = await startConsole(t.testdir());
    const page = await fetch(console.url);
    t.match(page.headers.get('content-security-policy'), /^default-src 'self';/);
    t.notMatch(page.headers.get('content-security-policy'), /unsafe/);
    const html = await page.text();
    t.notMatch(html, /https?:\/\//);
    t.notMatch(html, /<script>|<style|style=|onclick/);
    const files = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path!);
    t.ok(
      files.some((path) => /^\/assets\/app-[A-Z0-9]{8}\.js$/.test(path)) && files.some((path) => /\.css$/.test(path)),
      html,
    );
    for (const path of files) {
      const answer = await fetch(`${console.url}${path}`);
      t.equal(answer.status, 200, path);
      const caching = answer.headers.get('cache-control');
      t.match(caching, path.includes('-') ? /immutable/ : /no-cache/, path);
      const text = await answer.text();
      for (const [address] of text.matchAll(/(?:@import|src:|url\()\s*["']?https?:\/\/[^"')]+/g))
        t.fail(`${path} asks ${address}`);
    }
    await console.close();
  },
);
