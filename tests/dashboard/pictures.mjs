// The README's picture, when there is something to see.

import { join } from 'node:path';

import { run, until } from './browser.mjs';

await run(async (page, { status }) => {
  await status('Connected to ');
  await until('most of two minutes', async () => (
    ((await page.getAttribute('#throughput .line.rx', 'd')) ?? '').split('L').length > 100), 240_000);
  await page.screenshot({ path: join(process.argv[3], 'dashboard.png') });
}, { viewport: { width: 1160, height: 780 }, reducedMotion: 'reduce' });
