// The page that the control service itself serves, after a login of the browser's.

import { check, run, until } from './browser.mjs';

const [user, password] = process.argv[3].split(':');

await run(async (page, { status }) => {
  check(new URL(page.url()).pathname === '/dashboard/', page.url());
  await status('Connected to 127.0.0.1:7867');
  await page.click('#add-port');
  await page.fill('[name=target]', 'zz1');
  await page.click('#add .main');
  // Subscriptions go by the same login.
  await page.locator('#events li', { hasText: 'port-added' }).first().waitFor();
  await until('stages', async () => (await page.locator('#cost tbody tr').count()) > 0);
}, { httpCredentials: { username: user, password } });
