// The README's picture, when there is something to see.

import { join } from 'node:path';

import { run, until } from './browser.mjs';

await run(async (page, { status }) => {
  await status('Connected to ');
  await page.selectOption('#plotted', { label: '2 link' });
  await until('most of two minutes', async () => (
    ((await page.getAttribute('#throughput .line.rx', 'd')) ?? '').split('L').length > 100), 240_000);
  // The usual place, not the laboratory's.
  await page.evaluate(() => {
    const told = document.querySelector('#status');
    told.textContent = told.textContent.replace(/unix:\S+sock/, 'unix:/run/etherws/ctl.sock');
  });
  await page.screenshot({ path: join(process.argv[3], 'dashboard.png') });
}, { viewport: { width: 1200, height: 830 }, reducedMotion: 'reduce' });
