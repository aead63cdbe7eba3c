/** Notifications to a service manager, received by a real datagram socket. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { ServiceManager } from '../../../agent/adapters/service-manager.js';

/** Binds a Unix datagram socket and prints what comes, a line a datagram; Node has no such sockets. */
const receiver = `
import os, socket, sys
path = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('\\0' + path[1:] if path[0] == '@' else path)
print('bound', flush=True)
while True:
    print(s.recv(4096).decode(), flush=True)
`;

/** The path of a socket is short: 107 bytes, which a test folder's name can use up. */
function shortFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'qn-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const kinds: readonly (readonly [string, (folder: string) => string])[] = [
  ['a socket in the file system', (folder) => join(folder, 'notify')],
  ['an abstract socket', (folder) => `@${folder}/notify`],
];
const skip = spawnSync('python3', ['--version']).status === 0 ? false : 'python3 is absent';
for (const [kind, pathOf] of kinds) {
  t.test(`ready, alive and stopping reach ${kind}`, { skip }, async (t) => {
    const path = pathOf(shortFolder());
    const child = spawn('python3', ['-c', receiver, path], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.teardown(() => child.kill());
    let text = '';
    const hear = async (ending: string) => {
      while (!text.endsWith(ending)) text += String((await once(child.stdout, 'data'))[0]);
    };
    await hear('bound\n');
    const manager = new ServiceManager(path, (text) => t.fail(text));
    manager.ready();
    manager.alive();
    manager.stopping();
    await hear('STOPPING=1\n');
    t.equal(text, 'bound\nREADY=1\nWATCHDOG=1\nSTOPPING=1\n');
  });
}

t.test('without a service manager nothing happens; one that is gone is a warning', async (t) => {
  new ServiceManager(null, (text) => t.fail(text)).ready();
  const warnings: string[] = [];
  new ServiceManager(join(shortFolder(), 'nobody'), (text) => warnings.push(text)).ready();
  t.match(warnings, [/READY=1.*errno/]);
  new ServiceManager('relative', (text) => warnings.push(text)).ready();
  t.match(warnings[1], /begins with/);
});
