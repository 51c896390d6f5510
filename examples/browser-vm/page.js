// What stands behind the # of the page's address: relay, the URL of the switch with the token; agent, a serial line of the
// machine that a test talks to it by. A fragment is sent to no server.
import { V86 } from "./libv86.mjs";

const asked = new URLSearchParams(location.hash.slice(1));
const secure = location.protocol === "https:";
const relay = asked.get("relay") ?? `${secure ? "wss" : "ws"}://${location.hostname}/`;
const agent = asked.get("agent");
const state = document.getElementById("state");

const emulator = new V86({
    wasm_path: "v86.wasm",
    memory_size: 128 << 20,
    vga_memory_size: 2 << 20,
    bios: { url: "bios.bin" },
    vga_bios: { url: "vgabios.bin" },
    bzimage: { url: "vmlinuz" },
    initrd: { url: "initrd" },
    cmdline: `console=ttyS0 console=tty1 loglevel=2 panic=-1 ${agent ? `agent=${agent}` : ""}`,
    screen: { container: document.getElementById("screen") },
    // The card that v86 makes best; raw Ethernet frames, a WebSocket message each.
    net_device: { type: "ne2k", relay_url: relay },
    uart1: true,
    disable_speaker: true,
    autostart: true,
});
emulator.add_listener("emulator-started", () => {
    state.textContent = `Runs; its network is ${relay.replace(/\?.*/, "")}. It takes half a minute or more to start.`;
});
emulator.add_listener("download-error", (file) => {
    state.textContent = `${file.file_name} could not be loaded: make the page with make.sh and serve its folder.`;
});
window.emulator = emulator;
