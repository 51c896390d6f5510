// The machine of examples/browser-vm in Chromium: vm.mjs URL SOCKET FOLDER. Its second serial line is the Unix socket, as
// QEMU's is with -serial unix:SOCKET,server=on; FOLDER is for the browser's own files.
import net from "node:net";
import { createRequire } from "node:module";

const modules = createRequire(new URL("../../target/browser/", import.meta.url));
const { chromium } = modules("playwright-core");
const [url, socket, folder] = process.argv.slice(2);

net.createServer(async (line) => {
    const context = await chromium.launchPersistentContext(folder, {
        executablePath: "/usr/bin/chromium",
        chromiumSandbox: false,
        args: [
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ],
    });
    const page = await context.newPage();
    page.on("console", (message) => console.log(`console: ${message.text()}`));
    page.on("pageerror", (error) => console.log(`error: ${error}`));
    await page.exposeFunction("said", (text) => line.write(Buffer.from(text, "latin1")));
    await page.goto(url);
    await page.waitForFunction(() => window.emulator);
    await page.evaluate(() => {
        let text = "";
        window.emulator.add_listener("serial1-output-byte", (byte) => {
            text += String.fromCharCode(byte);
            if (byte === 10) {
                window.said(text);
                text = "";
            }
        });
    });
    console.log(await page.textContent("#state"));
    line.on("data", (bytes) =>
        page.evaluate((sent) => window.emulator.serial_send_bytes(1, Uint8Array.from(sent)), [...bytes]),
    );
    line.on("close", async () => {
        await context.close();
        process.exit(0);
    });
}).listen(socket);
