// The switch goes, and comes back; tests/dashboard.rs sees to it when it reads "kill".

import { check, run, until } from './browser.mjs';

await run(async (page, { status, picture }) => {
  await status('Connected to ');
  await page.locator('#ports tbody tr').first().waitFor();
  await until('a stage', async () => (await page.locator('#cost tbody tr').count()) > 0);
  console.log('kill');
  await status('No connection to the switch');
  check(await page.evaluate(() => document.body.classList.contains('stale')), 'the figures are greyed');
  check((await page.locator('#ports tbody tr').count()) > 0, 'the last figures stay');
  check((await page.textContent('#status')).includes('Figures are of '), 'and of when they are');
  await picture('dashboard-stale');
  console.log('restart');
  await status('Connected to ');
  check(!(await page.evaluate(() => document.body.classList.contains('stale'))), 'greyed no more');
  // The subscriptions too.
  await until('events are told again', async () => !(await page.isVisible('#events .trouble')));
  const seen = await page.locator('#events li').count();
  console.log('event');
  await until('an event', async () => (await page.locator('#events li').count()) > seen);
}, { loud: true });
