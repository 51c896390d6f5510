// The dashboard: asks the switch every second while somebody looks, and hands what it says to the parts of
// the page.

import { Cost } from './cost.js';
import { Events } from './events.js';
import { bits, clock, time } from './format.js';
import { Plot } from './plot.js';
import { Ports, rows } from './ports.js';
import { delays, sum } from './profile.js';
import { METHOD_NOT_FOUND, Refusal, Subscriptions, ask, open } from './rpc.js';
import { Stations } from './stations.js';
import { element, write } from './table.js';

const INTERVAL = 1000;
/** Every so many looks, the stations: they change slowly, and there may be thousands. */
const STATIONS_EVERY = 3;
/** Seconds that a delay is of. */
const SMOOTH = 3;
/** Seconds that are plotted. */
const LENGTH = 181;

const byId = (id) => document.getElementById(id);

/** The most links that are measured at once. */
const MEASURED = 8;

/** Round trips of links, where the switch measures them: of the port that is looked at, or of the first links. */
class RoundTrips {
  constructor() {
    this.known = true;
    this.busy = false;
    this.ns = new Map();
  }

  async measure(rows, chosen) {
    if (!this.known || this.busy) return;
    const links = rows.filter(({ type, state, port }) => (
      ['client', 'server'].includes(type) && state === 'up' && (chosen === 0 || port === chosen)));
    this.busy = true;
    const trips = await Promise.all(links.slice(0, MEASURED).map(async ({ port }) => {
      const [trip] = await ask(['pingPort', { port, timeout_ms: INTERVAL }]).catch(() => [null]);
      if (trip instanceof Refusal && trip.code === METHOD_NOT_FOUND) this.known = false;
      return [port, trip?.rtt_ns ?? null];
    }));
    this.ns = new Map(trips.filter(([, ns]) => ns !== null));
    this.busy = false;
  }

  /** Of all (0) the longest. */
  of(port) {
    return (port === 0 ? [...this.ns.values()].sort((a, b) => b - a)[0] : this.ns.get(port)) ?? null;
  }

  /** Another switch may measure what the last one did not. */
  renew() {
    this.known = true;
    this.ns.clear();
  }
}

class App {
  constructor() {
    this.ports = new Ports(byId('ports'), { changed: () => this.look(), tell: (...what) => this.tell(...what) });
    this.stations = new Stations(byId('stations'));
    this.cost = new Cost(byId('cost'));
    this.events = new Events(byId('events'));
    this.throughput = new Plot(byId('throughput'), {
      series: [{ key: 'rx', name: 'In' }, { key: 'tx', name: 'Out' }], show: bits, least: 1000, length: LENGTH,
    });
    this.delay = new Plot(byId('delay'), {
      series: [
        { key: 'queue', name: 'Queue, mean' },
        { key: 'queue99', name: 'Queue, 99 %' },
        { key: 'inside', name: 'Processing, a frame' },
        { key: 'rtt', name: 'Round trip' },
      ],
      show: time, least: 1e6, log: true, length: LENGTH,
    });
    this.history = new Map();
    this.trips = new RoundTrips();
    this.choice = byId('plotted');
    this.choice.addEventListener('change', () => this.plot());
    this.pause = byId('pause');
    this.pause.addEventListener('click', () => this.press());
    this.subscriptions = new Subscriptions((connected) => byId('events').classList.toggle('deaf', !connected));
    this.snapshots = [];
    this.looks = 0;
    this.paused = false;
    document.addEventListener('visibilitychange', () => this.turn());
  }

  async start() {
    try {
      this.name = await open();
    } catch (why) {
      this.lost(why);
      return;
    }
    this.turn();
  }

  /** Looks while the page is seen and not paused; nobody measures for a page that nobody sees. */
  turn() {
    const looking = !document.hidden && !this.paused;
    clearTimeout(this.timer);
    this.looking = looking;
    const subscribed = [
      { method: 'subscribeEvents', params: {}, notification: 'event', hear: (event) => this.events.hear(event) },
      { method: 'subscribeProf', params: {}, notification: 'prof', hear: (snapshot) => this.measured(snapshot) },
    ];
    // What happens is told even to a page in the background.
    this.subscriptions.want(looking ? subscribed : subscribed.slice(0, 1));
    // What was measured before is not of now.
    this.before = null;
    this.snapshots = [];
    this.measurement = null;
    if (looking) this.run();
  }

  press() {
    this.paused = !this.paused;
    this.pause.setAttribute('aria-pressed', String(this.paused));
    document.body.classList.toggle('paused', this.paused);
    this.turn();
  }

  async run() {
    await this.look();
    clearTimeout(this.timer);
    if (this.looking) this.timer = setTimeout(() => this.run(), INTERVAL);
  }

  async look() {
    try {
      const [ports, counters, version] = await ask(['listPort'], ['listCounters'], ['getVersion']);
      for (const answer of [ports, counters, version]) if (answer instanceof Refusal) throw answer;
      if (this.looks % STATIONS_EVERY === 0) await this.stations.fetch();
      this.looks += 1;
      this.found(version);
      this.before = rows(ports.entries, counters.entries, this.before);
      this.ports.update([...this.before.rows.values()]);
      this.trips.measure([...this.before.rows.values()], Number(this.choice.value));
      this.remember();
    } catch (why) {
      this.lost(why);
    }
  }

  found({ name, version, node }) {
    document.title = node ? `${node} · etherws` : 'etherws';
    this.seen = new Date();
    document.body.classList.remove('stale');
    document.body.classList.add('live');
    write(byId('status'), `Connected to ${this.name}, ${name} ${version}`);
  }

  lost(why) {
    this.before = null;
    this.looks = 0;
    this.stations.renew();
    this.trips.renew();
    this.cost.forget();
    this.snapshots = [];
    this.measurement = null;
    document.body.classList.add('stale');
    const since = this.seen ? ` Figures are of ${clock(this.seen)}.` : '';
    write(byId('status'), `No connection to the switch: ${why.message.replace(/\.?$/, '.')}${since}`);
  }

  /** Few frames are measured where few pass: those of some seconds make a figure. */
  measured(snapshot) {
    this.snapshots = [...this.snapshots, snapshot].slice(-SMOOTH);
    this.measurement = sum(this.snapshots);
    this.cost.hear(snapshot);
  }

  /** A sample of each port, and of all. */
  remember() {
    const at = new Date();
    const rows = [...this.before.rows.values()];
    const add = (port, rx, tx) => {
      const delay = this.measurement ? delays(this.measurement, port) : {};
      const samples = this.history.get(port) ?? [];
      samples.push({ at, rx, tx, rtt: this.trips.of(port), ...delay });
      this.history.set(port, samples.slice(-LENGTH));
    };
    const known = rows.some((row) => row.rxBits !== null);
    const of = (key) => (known ? rows.reduce((all, row) => all + (row[key] ?? 0), 0) : null);
    add(0, of('rxBits'), of('txBits'));
    for (const row of rows) add(row.port, row.rxBits, row.txBits);
    for (const port of this.history.keys()) {
      if (port !== 0 && !this.before.rows.has(port)) this.history.delete(port);
    }
    this.offer(rows);
    this.plot();
  }

  /** The ports there are, to choose one. */
  offer(rows) {
    const wanted = new Map([['0', 'All ports'], ...rows.map((row) => [String(row.port), `${row.port} ${row.name}`])]);
    for (const option of [...this.choice.options]) if (!wanted.has(option.value)) option.remove();
    for (const [value, text] of wanted) {
      const there = [...this.choice.options].find((option) => option.value === value);
      if (there) write(there, text);
      else this.choice.append(element('option', { value, textContent: text }));
    }
  }

  plot() {
    const samples = this.history.get(Number(this.choice.value)) ?? [];
    this.throughput.update(samples);
    this.delay.update(samples);
  }

  /** What came of something that was asked for. */
  tell(what, wrong = false) {
    const told = byId(wrong ? 'wrong' : 'done');
    write(told, what);
    clearTimeout(told.timer);
    told.timer = setTimeout(() => write(told, ''), wrong ? 20_000 : 5000);
  }
}

new App().start();
