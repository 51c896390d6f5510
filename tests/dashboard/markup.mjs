// Names that are markup: one that a peer really logged in with, and then every text that the switch could say.

import { check, run, until } from './browser.mjs';

const NASTY = '<img src=x onerror="globalThis.owned=1"><script>globalThis.owned=1</script>\'">&amp;';

/** Puts markup into every text of an answer but those that the page decides by. */
const poison = (value, key) => {
  if (Array.isArray(value)) return value.map((entry) => poison(entry, key));
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, entry]) => (
      [name === 'jsonrpc' || key !== 'drops' ? name : `${NASTY}${name}`, poison(entry, name)])));
  }
  return typeof value === 'string' && !['jsonrpc', 'method'].includes(key) ? `${NASTY}${value}` : value;
};

/** The addresses of stations and the round trips of links, in the place of a switch that does not know them. */
const withStations = (answer, answers) => {
  const fdb = answers.flatMap(({ result }) => result?.entries ?? []).filter(({ mac }) => mac);
  if (answer.error?.code !== -32601) return answer;
  // pingPort's is asked alone.
  if (answers.length === 1) return { jsonrpc: '2.0', id: answer.id, result: { port: 1, name: '', rtt_ns: 4_200_000 } };
  const stations = fdb.map(({ vid, mac, port, name, age }) => (
    { vlan: vid || null, mac, port, name, ips: ['10.1.0.77', 'fe80::77'], age }));
  return { jsonrpc: '2.0', id: answer.id, result: stations };
};

await run(async (page, { status, picture }) => {
  const owned = () => page.evaluate(() => globalThis.owned !== undefined
    || document.querySelectorAll('main img, main script, #told img').length > 0);
  await status('Connected to ');
  const text = () => page.textContent('#ports tbody');
  // Of tests/dashboard.rs: the user that the link logged in as.
  await until('the peer by its name', async () => (await text()).includes('user <img src=x onerror=alert(1)>'));
  await picture('dashboard-markup');
  check(!(await owned()), 'it ran');

  let nasty = (value) => value;
  await page.route('**/ctl', async (route) => {
    const response = await route.fetch();
    const answers = await response.json();
    await route.fulfill({ response, json: nasty(answers.map((answer) => withStations(answer, answers))) });
  });
  await page.routeWebSocket('**/ctl', (socket) => {
    const server = socket.connectToServer();
    server.onMessage((message) => socket.send(JSON.stringify(poison(JSON.parse(message)))));
  });
  await page.reload();
  await until('addresses', async () => /10\.1\.0\.\d/.test(await page.textContent('#stations tbody')));
  await until('a round trip', async () => /\d (µs|ms)/.test(await page.textContent('#delay .rtt b')));
  nasty = poison;
  await until('poisoned ports', async () => (await text()).includes(NASTY));
  await until('poisoned stations', async () => (await page.textContent('#stations tbody')).includes(NASTY));
  await until('a poisoned flame', async () => (await page.textContent('.flame')).includes('<img'));
  await page.getByRole('button', { name: /^Delete port/ }).first().click();
  check((await page.textContent('#delete .what')).includes(NASTY), 'the question names the port');
  await page.keyboard.press('Escape');
  // A refusal in the switch's words.
  await page.click('#add-port');
  await page.fill('[name=target]', NASTY);
  await page.click('#add .main');
  await until('a poisoned refusal', async () => (await page.textContent('#add .error')).includes('<img'));
  await page.keyboard.press('Escape');
  await until('a poisoned event', async () => (
    // Opening and shutting makes some.
    page.getByRole('button', { name: /^(Shut|Open) port/ }).first().click().then(async () => (
      (await page.textContent('#events ol')).includes('<img')))));
  check(!(await owned()), 'it ran');
});
