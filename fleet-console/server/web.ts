/** The web console as files: one page for every address of it, and what the page needs. Works without any other site. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FastifyInstance } from 'fastify';
import { problem } from './problem.js';

/** Where the build puts them: beside the server. */
const folder = join(dirname(fileURLToPath(import.meta.url)), '..', 'web');

const types: Readonly<Record<string, string>> = {
  html: 'text/html; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  css: 'text/css; charset=utf-8',
  svg: 'image/svg+xml',
};

/** Addresses that the page shows by itself; everything below them too. */
const pages = ['/devices', '/releases', '/rollouts', '/budgets', '/audit'];

const headers = {
  'content-security-policy': "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'same-origin',
};

/** Serves the web console. Where it was not built, its addresses say so. */
export function addWebRoutes(app: FastifyInstance): void {
  const files = filesOf(folder);
  app.get('/assets/:file', { schema: { hide: true } }, async (request, reply) => {
    const { file } = request.params as { file: string };
    const content = files.get(file);
    if (content === undefined) return problem(reply, 404, { code: 'usage/invalid', message: 'there is no such file' });
    // Names of scripts and styles hold a digest of their content.
    const caching = file.includes('-') ? 'public, max-age=31536000, immutable' : 'no-cache';
    return reply
      .headers({ ...headers, 'cache-control': caching })
      .type(types[file.split('.').pop()!] ?? 'application/octet-stream')
      .send(content);
  });
  const page = files.get('index.html');
  for (const path of ['/', ...pages, ...pages.map((above) => `${above}/*`)]) {
    app.get(path, { schema: { hide: true } }, async (_request, reply) =>
      page === undefined
        ? reply.code(503).type('text/plain').send('The web console was not built: npm run build\n')
        : reply
            .headers({ ...headers, 'cache-control': 'no-cache' })
            .type(types.html!)
            .send(page),
    );
  }
}

function filesOf(folder: string): ReadonlyMap<string, Buffer> {
  try {
    return new Map(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map();
    throw error;
  }
}
