// A switch with more stations than it lists at once, all of them behind port vms-1.

import { SOON, check, run, until } from './browser.mjs';

await run(async (page, { status }) => {
  await status('Connected to ');
  const note = () => page.textContent('#stations .note');
  await until('the first of them', async () => (await note()).startsWith('the first 10\u202f000 stations'));
  check((await note()).endsWith('etherctl listfdb has the others'), await note());
  check((await page.locator('#stations tbody tr').count()) === 250, 'as many rows as ever');
  await page.getByRole('searchbox').fill('02:5e:00:00:00:07');
  await until('one is found', async () => (await page.locator('#stations tbody tr').count()) === 1);
  await page.getByRole('searchbox').fill('');
  // Many go, and more are left than a page has.
  const mac = (n) => n.toString(16).padStart(4, '0').replace(/^(..)/, '02:00:00:00:$1:');
  const entries = Array.from({ length: 12_000 }, (_, n) => (
    { vid: 0, mac: mac(n), port: 1, age: 1, name: 'vms-1', static: false }));
  const few = ({ method, params: { limit = entries.length } }) => (
    method.endsWith('.listFdb') ? { entries: entries.slice(0, limit) } : []);
  await page.route('**/ctl', async (route) => {
    const response = await route.fetch();
    const asked = route.request().postDataJSON();
    const json = (await response.json()).map((answer) => {
      const question = asked.find(({ id }) => id === answer.id);
      return /\.list(Fdb|Stations)$/.test(question.method)
        ? { jsonrpc: '2.0', id: answer.id, result: few(question) } : answer;
    });
    await route.fulfill({ response, json });
  });
  await until('all of them', async () => (await note()).startsWith('12\u202f000 stations'), 2 * SOON);
});
