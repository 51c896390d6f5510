// The ports: live rates and drops; add, shut, delete.

import { bits, bytes, count, frames, short } from './format.js';
import { call } from './rpc.js';
import { Table, element, twoLines, write } from './table.js';

const GOOD = new Set(['up', 'listening']);
const OFF = new Set(['shut']);

/** What a counter has grown by in a second; nothing when it was set back. */
const rate = (now, then, seconds) => (then !== undefined && now >= then ? (now - then) / seconds : null);

/** Joins listPort and listCounters, and what they said before, to rows with rates. */
export const rows = (ports, counters, before) => {
  const at = performance.now();
  const seconds = before ? (at - before.at) / 1000 : 0;
  const of = new Map(counters.map((entry) => [entry.port, entry]));
  const made = ports.map((port) => {
    const then = before?.rows.get(port.port);
    const since = (key) => rate(port[key], then?.[key], seconds);
    return {
      ...port,
      reasons: of.get(port.port)?.drops ?? {},
      rxBits: since('rx_bytes') === null ? null : 8 * since('rx_bytes'),
      txBits: since('tx_bytes') === null ? null : 8 * since('tx_bytes'),
      rxFrames: since('rx'),
      txFrames: since('tx'),
      dropRate: since('drops'),
    };
  });
  return { at, rows: new Map(made.map((row) => [row.port, row])) };
};

const flow = (cell, bitRate, frameRate, total) => {
  const first = bitRate === null ? '–' : bits(bitRate);
  twoLines(cell, first, bitRate === null ? '' : frames(frameRate));
  cell.title = `${bytes(total)} in all`;
};

const state = (cell, port) => {
  if (!cell.firstElementChild) {
    cell.append(element('span', { className: 'state' }), element('small', { className: 'reason' }));
  }
  const kind = GOOD.has(port.state) ? 'good' : OFF.has(port.state) ? 'off' : 'bad';
  const [badge, reason] = cell.children;
  if (badge.dataset.kind !== kind) badge.dataset.kind = kind;
  write(badge, port.state);
  write(reason, [port.reason, ...(port.alerts ?? [])].filter(Boolean).join(', '));
};

const drops = (cell, port) => {
  const reasons = Object.entries(port.reasons).sort(([, a], [, b]) => b - a);
  const now = port.dropRate >= 1 ? ` (+${short(port.dropRate)}/s)` : '';
  const why = reasons.slice(0, 2).map(([reason, times]) => `${reason} ${short(times)}`).join(', ');
  twoLines(cell, count(port.drops) + now, reasons.length > 2 ? `${why}, …` : why);
  cell.title = reasons.map(([reason, times]) => `${reason} ${count(times)}`).join('\n');
};

/** Where it leads, as whom, and by how many connections where there may be several. */
const place = (port) => {
  const peer = port.type === 'server' || port.peer === port.target ? '' : port.peer;
  const connections = port.connections && `${port.connections.up}/${port.connections.of} connections`;
  const user = port.user && `user ${port.user}`;
  return [peer, connections, port.bridge && `bridge ${port.bridge}`, user, port.tls, port.offload].filter(Boolean).join(' · ');
};

export class Ports {
  constructor(section, { changed, tell }) {
    this.changed = changed;
    this.tell = tell;
    const text = (value) => (cell, row) => write(cell, value(row));
    this.table = new Table(section.querySelector('table'), [
      { name: 'Port', number: true, sort: (row) => row.port, show: text((row) => String(row.port)) },
      {
        name: 'Name', title: true, sort: (row) => row.name,
        show: (cell, row) => twoLines(cell, row.name, row.type),
      },
      { name: 'State', sort: (row) => row.state, show: state },
      {
        name: 'In', number: true, sort: (row) => row.rxBits ?? -1,
        show: (cell, row) => flow(cell, row.rxBits, row.rxFrames, row.rx_bytes),
      },
      {
        name: 'Out', number: true, sort: (row) => row.txBits ?? -1,
        show: (cell, row) => flow(cell, row.txBits, row.txFrames, row.tx_bytes),
      },
      { name: 'Drops', number: true, sort: (row) => row.drops, show: drops },
      { name: 'VLAN', sort: (row) => row.vlan, show: text((row) => row.vlan) },
      {
        name: 'Leads to', sort: (row) => row.target,
        show: (cell, row) => {
          cell.classList.add('place');
          twoLines(cell, row.target, place(row));
        },
      },
      { name: 'Actions', quiet: true, show: (cell, row) => this.actions(cell, row) },
    ], (row) => row.port, { by: 'Port', empty: 'No ports yet.' });
    this.add = new AddPort(document.getElementById('add'), (port) => this.done(`Port ${port.name} added`));
    section.querySelector('#add-port').addEventListener('click', () => this.add.open());
    this.deletion = document.getElementById('delete');
    this.deletion.querySelector('form').addEventListener('submit', (event) => this.remove(event));
    this.deletion.querySelector('.cancel').addEventListener('click', () => this.deletion.close());
  }

  update(rows) {
    this.table.update(rows);
  }

  actions(cell, port) {
    if (!cell.firstElementChild) {
      cell.classList.add('actions');
      const shut = element('button', { type: 'button' });
      shut.addEventListener('click', () => this.shut(shut));
      const remove = element('button', { type: 'button', textContent: 'Delete' });
      remove.addEventListener('click', () => this.ask(remove.port));
      cell.append(shut, remove);
    }
    const [shut, remove] = cell.children;
    shut.port = port;
    remove.port = port;
    write(shut, port.shut ? 'Open' : 'Shut');
    const label = (button, word) => {
      const name = `${word} port ${port.port}, ${port.name}`;
      if (button.getAttribute('aria-label') !== name) button.setAttribute('aria-label', name);
    };
    label(shut, port.shut ? 'Open' : 'Shut');
    label(remove, 'Delete');
  }

  async shut(button) {
    const { port, name, shut } = button.port;
    button.disabled = true;
    try {
      await call('setPort', { port, shut: !shut });
      this.done(`Port ${name} ${shut ? 'opened' : 'shut'}`);
    } catch (why) {
      this.tell(`Port ${name} was not changed: ${why.message}`, true);
    }
    button.disabled = false;
    button.focus();
  }

  ask(port) {
    this.doomed = port;
    write(this.deletion.querySelector('.what'), `Port ${port.port}, ${port.name}`);
    write(this.deletion.querySelector('.error'), '');
    this.deletion.showModal();
  }

  async remove(event) {
    event.preventDefault();
    const { port, name } = this.doomed;
    try {
      await call('delPort', { port });
      this.deletion.close();
      this.done(`Port ${name} deleted`);
    } catch (why) {
      write(this.deletion.querySelector('.error'), why.message);
    }
  }

  done(what) {
    this.tell(what);
    this.changed();
  }
}

/** What each type is reached by. */
const TARGETS = {
  tap: ['Device name', 'tap0', 'A virtual network card of the switch’s host; at most 15 letters.'],
  netdev: ['Device name', 'eth1', 'A network card of the switch’s host.'],
  client: ['URL', 'wss://switch.example.net/', 'A link that the switch dials, again and again.'],
  qemu: ['Socket', 'unix:/run/etherws/vms.sock', 'Where virtual machines come in: unix:PATH or tcp:PORT.'],
};

class AddPort {
  constructor(dialog, added) {
    this.dialog = dialog;
    this.added = added;
    this.form = dialog.querySelector('form');
    this.form.addEventListener('submit', (event) => this.submit(event));
    this.form.elements.type.addEventListener('change', () => this.suit());
    this.form.elements.rule.addEventListener('change', () => this.suit());
    dialog.querySelector('.cancel').addEventListener('click', () => dialog.close());
  }

  open() {
    this.form.reset();
    write(this.dialog.querySelector('.error'), '');
    this.suit();
    this.dialog.showModal();
  }

  /** Shows what the type and the rule have. */
  suit() {
    const { type, rule, target } = this.form.elements;
    const [label, example, hint] = TARGETS[type.value];
    write(document.getElementById('target-label'), label);
    write(document.getElementById('target-hint'), hint);
    target.placeholder = example;
    for (const part of this.form.querySelectorAll('[data-of]')) {
      const of = part.dataset.of.split(' ');
      part.hidden = !of.includes(type.value) && !of.includes(rule.value);
    }
  }

  spec() {
    const { type, target, name, rule, shut, user, passwd, cacerts } = this.form.elements;
    const spec = { type: type.value, target: target.value.trim() };
    if (name.value.trim()) spec.name = name.value.trim();
    if (shut.checked) spec.shut = true;
    if (rule.value === 'access') spec.access = Number(this.form.elements.access.value);
    if (rule.value === 'trunk') {
      spec.trunk = this.form.elements.trunk.value.trim();
      if (this.form.elements.native.value) spec.native = Number(this.form.elements.native.value);
    }
    if (spec.type === 'client') {
      const options = {};
      if (user.value) Object.assign(options, { user: user.value, passwd: passwd.value });
      if (cacerts.value.trim()) options.cacerts = cacerts.value.trim();
      if (Object.keys(options).length > 0) spec.options = options;
    }
    return spec;
  }

  async submit(event) {
    event.preventDefault();
    const error = this.dialog.querySelector('.error');
    write(error, '');
    try {
      const { entries: [port] } = await call('addPort', this.spec());
      this.dialog.close();
      this.added(port);
    } catch (why) {
      write(error, why.message);
    }
  }
}
