// A switch with more stations than it lists at once, all of them behind port vms-1.

import { check, run, until } from './browser.mjs';

await run(async (page, { status }) => {
  await status('Connected to ');
  const note = () => page.textContent('#stations .note');
  await until('the first of them', async () => (await note()).startsWith('the first 10\u202f000 stations'));
  check((await note()).endsWith('etherctl listfdb has the others'), await note());
  check((await page.locator('#stations tbody tr').count()) === 250, 'as many rows as ever');
  await page.getByRole('searchbox').fill('02:5e:00:00:00:07');
  await until('one is found', async () => (await page.locator('#stations tbody tr').count()) === 1);
});
