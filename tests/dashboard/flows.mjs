// What people do on the page, with mouse and keyboard. The switch has ports t0 and link, with traffic between, and several,
// a link of three connections that nobody answers. link has less pace than there is traffic.

import { check, run, until } from './browser.mjs';

await run(async (page, { picture, audit, status, asked, url }) => {
  await status('Connected to ');
  check(!page.url().includes('token'), `the token stays in the address: ${page.url()}`);

  const row = (name) => page.locator('#ports tbody tr').filter({ has: page.locator('.first', { hasText: new RegExp(`^${name}$`) }) });
  const cell = (name, column) => row(name).locator(`td[data-name="${column}"]`);

  // Live rates, with their units.
  await until('a rate', async () => /[1-9].*bit\/s/.test(await cell('link', 'In').textContent()));
  await until('a line', async () => ((await page.getAttribute('#throughput .line.rx', 'd')) ?? '').includes('L'));
  await until('what a frame takes', async () => /\d (ns|µs)/.test(await page.textContent('#delay .inside b')));
  for (const line of ['queue', 'rtt']) {
    await until(`the plot of ${line}`, async () => /\d (ns|µs|ms)/.test(await page.textContent(`#delay .${line} b`)));
  }
  // The link takes half of what it is given: frames wait, and some are dropped.
  await until('live drops', async () => /\(\+\d.*\/s\)/.test(await cell('link', 'Drops').textContent()));
  await page.selectOption('#plotted', { label: '1 t0' });
  await page.click('#throughput summary');
  await until('the plot as a table', async () => (await page.locator('#throughput tbody tr').count()) > 2);
  await page.click('#throughput summary');
  await page.selectOption('#plotted', '0');

  // A link's connections, where there may be several.
  check((await cell('several', 'Leads to').textContent()).includes('0/3 connections'), 'how many are up');
  check(!(await cell('link', 'Leads to').textContent()).includes('connections'), 'of one nothing is said');

  // Add a port; what the switch says of a wrong one is shown.
  await page.click('#add-port');
  await page.fill('[name=target]', 'a-name-that-is-too-long');
  await page.click('#add .main');
  await until('the refusal', async () => (await page.textContent('#add .error')).includes('15 bytes'));
  await audit('the form');
  await page.fill('[name=target]', 'zz9');
  await page.fill('[name=name]', 'office');
  await page.selectOption('[name=rule]', 'access');
  await page.fill('[name=access]', '10');
  await page.keyboard.press('Enter');
  await row('office').waitFor();
  check((await cell('office', 'VLAN').textContent()) === 'access 10', 'the VLAN that was asked for');
  await page.locator('#events li', { hasText: 'port-added' }).first().waitFor();

  // Shut and open, by keyboard; the button keeps the focus.
  const shut = page.getByRole('button', { name: /^(Shut|Open) port \d+, office$/ });
  await shut.focus();
  await page.keyboard.press('Enter');
  await until('it is shut', async () => (await cell('office', 'State').textContent()).startsWith('shut'));
  await until('the focus', () => shut.evaluate((button) => button === document.activeElement));
  await page.keyboard.press('Enter');
  await until('it is open', async () => !(await cell('office', 'State').textContent()).startsWith('shut'));

  // Sort: aria-sort says so, and the order is what it says.
  const names = () => page.locator('#ports tbody td[data-name=Name] .first').allTextContents();
  const header = page.getByRole('columnheader', { name: 'Name' });
  await header.getByRole('button').click();
  check((await header.getAttribute('aria-sort')) === 'ascending', 'aria-sort after one click');
  const up = await names();
  check(up.join() === [...up].sort().join(), `in order: ${up}`);
  await header.getByRole('button').click();
  check((await header.getAttribute('aria-sort')) === 'descending', 'aria-sort after two');
  check((await names()).join() === up.reverse().join(), 'the other way round');

  // Delete, after a question whose first answer is no.
  const remove = page.getByRole('button', { name: /^Delete port \d+, office$/ });
  await remove.click();
  check(await page.evaluate(() => document.activeElement.textContent === 'Cancel'), 'Cancel has the focus');
  await page.keyboard.press('Escape');
  check((await row('office').count()) === 1, 'it is still there');
  await remove.click();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await row('office').waitFor({ state: 'detached' });

  // Search the stations.
  const stations = page.locator('#stations tbody tr');
  await until('stations', async () => (await stations.count()) > 1);
  const all = await stations.count();
  const mac = await stations.first().locator('td').first().textContent();
  await page.getByRole('searchbox').fill(mac.toUpperCase());
  await until('one is left', async () => (await stations.count()) === 1);
  check((await page.textContent('#stations .note')).startsWith(`1 of ${all} `), 'how many were found');
  await page.getByRole('searchbox').fill('nobody');
  await page.locator('#stations .empty', { hasText: 'No station fits' }).waitFor();
  await page.keyboard.press('Escape');
  await until('all again', async () => (await stations.count()) === all);

  // The flame graph, by keyboard alone.
  const whole = page.getByRole('treeitem', { name: /^all: 100 % / });
  await whole.waitFor();
  await whole.focus();
  await page.keyboard.press('ArrowDown');
  const focused = () => page.evaluate(() => document.activeElement.dataset.key);
  const direction = await focused();
  check(/^\/(c>s|s>c|local)$/.test(direction), `a direction is below all: ${direction}`);
  await page.keyboard.press('Enter');
  const width = (key) => page.evaluate((wanted) => (
    [...document.querySelectorAll('[role=treeitem]')].find(({ dataset }) => dataset.key === wanted)?.style.width), key);
  check((await width(direction)) === '100%', 'zoomed: as wide as the graph');
  check((await page.textContent('.zoom span')).includes(' › '), 'where one is');
  check((await focused()) === direction, 'the focus stays');
  await page.keyboard.press('Escape');
  check((await page.textContent('.zoom span')) === 'all', 'out again');
  // With the mouse too.
  const box = page.locator('.flame [data-group=rx]').first();
  await box.click();
  check(await page.getByRole('button', { name: 'Zoom out' }).isEnabled(), 'there is a way out');
  await page.getByRole('button', { name: 'Zoom out' }).click();
  const stages = page.locator('#cost tbody tr');
  check((await stages.count()) > 5, 'stages in the table');
  await page.selectOption('#cost select', 'c>s');
  await page.locator('#cost tbody td', { hasText: 'tx.ws.encode' }).first().waitFor();
  await page.selectOption('#cost select', '');

  // Who does not look has nothing measured.
  const leases = () => page.evaluate(async () => {
    const { session } = JSON.parse(sessionStorage.getItem('etherws.session'));
    const headers = { authorization: `Bearer ${session}`, 'content-type': 'application/json' };
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'etherws.control.getProf' });
    return (await (await fetch('/ctl', { method: 'POST', headers, body })).json()).result.leases.length;
  });
  check((await leases()) === 1, 'one lease for one page');
  const pause = page.getByRole('button', { name: 'Pause' });
  await pause.click();
  check((await pause.getAttribute('aria-pressed')) === 'true', 'it is paused');
  await until('the lease is given back', async () => (await leases()) === 0);
  await pause.click();
  await until('it is taken again', async () => (await leases()) === 1);

  // As wide as a phone: nothing stands out at the side.
  const sideways = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  for (const scheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    await page.setViewportSize({ width: 1360, height: 900 });
    await audit(scheme);
    await picture(`dashboard-${scheme}`);
    for (const size of [{ width: 360, height: 740 }, { width: 768, height: 1024 }, { width: 1050, height: 700 }]) {
      await page.setViewportSize(size);
      await until('the plots have their size', () => page.evaluate(() => (
        [...document.querySelectorAll('svg')].every((svg) => Number(svg.getAttribute('viewBox').split(' ')[2]) < innerWidth))));
      check((await sideways()) <= 0, `${size.width}: ${await sideways()} pixels too wide`);
      await audit(`${scheme} at ${size.width}`);
      await picture(`dashboard-${scheme}-${size.width}`);
    }
  }
  await page.click('#add-port');
  check((await sideways()) <= 0, 'the form on a phone');
  await page.keyboard.press('Escape');

  // Everything that a first visit loads.
  const total = [...asked.values()].reduce((sum, bytes) => sum + bytes, 0);
  check(total > 10_000 && total < 150_000, `${total} bytes`);

  // The URL works once: not for somebody else, and a reload needs it no more.
  await page.reload();
  await status('Connected to ');
  const token = url.split('token=')[1];
  const again = await fetch(new URL('/session', url), { method: 'POST', body: JSON.stringify({ token }) });
  check(again.status === 403, `a token used again: ${again.status}`);
});
