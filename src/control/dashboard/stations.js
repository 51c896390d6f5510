// Who was heard where: the forwarding database and, where the switch knows them, the stations' IP addresses.

import { age, count } from './format.js';
import { METHOD_NOT_FOUND, Refusal, TOO_MANY, ask } from './rpc.js';
import { Table, twoLines, write } from './table.js';

/** More rows are of no use to an eye, and of some cost to a browser. */
const SHOWN = 250;

/** Of very many stations so many are looked through. */
const SOME = 10_000;

/** After so many times all of them are asked for again: they may be fewer by now. */
const AGAIN = 10;

const place = (vid, mac) => `${vid ?? 0} ${mac}`;

export class Stations {
  constructor(section) {
    this.all = [];
    this.known = true;
    /** Which of them are asked for; nothing: all. And how often they were. */
    this.page = undefined;
    this.pages = 0;
    this.found = section.querySelector('[role=status]');
    this.note = section.querySelector('.note');
    this.search = section.querySelector('input');
    const text = (value) => (cell, row) => write(cell, value(row));
    this.table = new Table(section.querySelector('table'), [
      { name: 'Station', title: true, sort: (row) => row.mac, show: text((row) => row.mac) },
      { name: 'IP addresses', sort: (row) => row.ips.join(' '), show: text((row) => row.ips.join(', ') || '–') },
      { name: 'VLAN', number: true, sort: (row) => row.vid, show: text((row) => (row.vid ? String(row.vid) : '–')) },
      {
        name: 'Behind port', sort: (row) => row.name,
        show: (cell, row) => twoLines(cell, row.name, `port ${row.port}`),
      },
      {
        name: 'Heard', number: true, sort: (row) => row.age,
        show: text((row) => (row.static ? 'static' : `${age(row.age)} ago`)),
      },
    ], (row) => row.key, { by: 'Station', empty: 'No station was heard.' });
    this.search.addEventListener('input', () => this.find());
    this.search.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') {
        this.search.value = '';
        this.find();
      }
    });
    section.querySelector('form').addEventListener('submit', (event) => event.preventDefault());
  }

  /** Asks the switch; an older one has no listStations. */
  async fetch() {
    if (this.page && ++this.pages > AGAIN) this.page = undefined;
    const [fdb, stations] = await ask(['listFdb', this.page], ...(this.known ? [['listStations', this.page]] : []));
    if (fdb instanceof Refusal) {
      if (fdb.code !== TOO_MANY) throw fdb;
      [this.page, this.pages] = [{ limit: SOME }, 0];
      await this.fetch();
      return;
    }
    if (stations instanceof Refusal && stations.code === METHOD_NOT_FOUND) this.known = false;
    const list = Array.isArray(stations) ? stations : [];
    const ips = new Map(list.map((station) => [place(station.vlan, station.mac), station.ips]));
    this.all = fdb.entries.map((entry) => {
      const key = place(entry.vid, entry.mac);
      return { ...entry, key, ips: ips.get(key) ?? [] };
    });
    this.show();
    // They are few again.
    if (this.all.length < SOME) this.page = undefined;
  }

  /** Another switch may know what the last one did not. */
  renew() {
    this.known = true;
    this.page = undefined;
  }

  /** What was found is read out; what comes and goes by itself is not. */
  find() {
    this.show();
    write(this.found, this.note.textContent);
  }

  show() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => {
      const text = `${row.mac} ${row.ips.join(' ')} ${row.name} port ${row.port} vlan ${row.vid}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const found = this.all.filter(fits);
    this.table.empty.textContent = words.length > 0 ? 'No station fits the search.' : 'No station was heard.';
    this.table.update(found.slice(0, SHOWN));
    const more = found.length > SHOWN ? `, the first ${SHOWN} of them are shown` : '';
    const first = this.page ? 'the first ' : '';
    const beyond = this.page ? '; etherctl listfdb has the others' : '';
    const stations = this.all.length === 1 ? 'station' : 'stations';
    const all = `${first}${count(this.all.length)} ${stations}${more}${beyond}`;
    write(this.note, words.length > 0 ? `${count(found.length)} of ${all}` : all);
  }
}
