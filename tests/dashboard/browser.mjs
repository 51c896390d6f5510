// A browser for one scenario: node SCENARIO.mjs URL. What the page asks for elsewhere, says on its console or
// throws is a failure; the scenario ends with "done".

import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const root = join(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '../..');
const require = createRequire(join(root, 'target/browser/'));
const { chromium } = require('playwright-core');
const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const PICTURES = join(root, 'target/pictures');

/** As long as a wait may last: the machine is busy. */
export const SOON = 30_000;

export const check = (fine, what) => {
  if (!fine) throw new Error(what);
};

/** Polls until `look` gives something true. */
export const until = async (what, look, limit = SOON) => {
  const end = Date.now() + limit;
  let last;
  for (;;) {
    last = await look();
    if (last) return last;
    check(Date.now() < end, `waited in vain: ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
};

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
];

/** Runs `scenario(page, tools)`; `options` are the context's, and `loud`: the console may complain. */
export const run = async (scenario, { loud = false, ...options } = {}) => {
  const url = process.argv[2];
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS,
  });
  const wrong = [];
  const asked = new Map();
  try {
    const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
    context.setDefaultTimeout(SOON);
    const page = await context.newPage();
    const { origin } = new URL(url);
    page.on('request', (request) => {
      const to = request.url();
      if (!to.startsWith(`${origin}/`) && !to.startsWith('data:')) wrong.push(`asked for ${to}`);
    });
    page.on('websocket', (socket) => {
      if (!socket.url().startsWith(origin.replace('http', 'ws'))) wrong.push(`asked for ${socket.url()}`);
    });
    page.on('response', async (response) => {
      const body = await response.body().catch(() => Buffer.alloc(0));
      if (response.request().method() === 'GET') asked.set(response.url(), body.length);
    });
    page.on('pageerror', (error) => wrong.push(`thrown: ${error.stack}`));
    page.on('dialog', (dialog) => wrong.push(`a dialog of the browser: ${dialog.message()}`));
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type()) && !loud) wrong.push(`console: ${message.text()}`);
    });
    await page.goto(url);
    const picture = async (name, more = {}) => {
      mkdirSync(PICTURES, { recursive: true });
      await page.evaluate(() => scrollTo(0, 0));
      await page.screenshot({ path: join(PICTURES, `${name}.png`), fullPage: true, ...more });
    };
    /** What axe finds: names, roles, contrast. */
    const audit = async (what) => {
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, {
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
      }));
      const said = violations.map(({ id, help, nodes }) => (
        `${id}: ${help}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html} ${failureSummary}`).join(' | ')}`));
      check(said.length === 0, `${what}: ${said.join('\n')}`);
    };
    const status = (text) => until(`status says ${text}`, async () => (
      (await page.textContent('#status').catch(() => '')).includes(text)));
    await scenario(page, { url, picture, audit, status, asked, context });
    await page.unrouteAll({ behavior: 'ignoreErrors' });
    check(wrong.length === 0, wrong.join('\n'));
    console.log('done');
  } catch (why) {
    console.log(`FAILED: ${why.stack}\n${wrong.join('\n')}`);
    process.exitCode = 1;
  } finally {
    await browser.close();
  }
};
