// What happens to ports, as it is told: the latest first.

import { clock } from './format.js';
import { element } from './table.js';

const KEPT = 100;
const BAD = /-(held|began|blocked|limit|down)$|^missed$/;

export class Events {
  constructor(section) {
    this.list = section.querySelector('ol');
    this.empty = section.querySelector('.empty');
  }

  hear({ unix_ms: ms, event, port, name, text }) {
    const when = new Date(ms);
    const time = element('time', { dateTime: when.toISOString(), textContent: clock(when) });
    const what = element('b', { textContent: event, className: BAD.test(event) ? 'bad' : '' });
    const parts = [time, ' ', what];
    if (port > 0) parts.push(' ', element('span', { textContent: `${port} (${name})` }));
    if (text) parts.push(element('small', { textContent: text }));
    this.list.prepend(element('li', {}, ...parts));
    while (this.list.children.length > KEPT) this.list.lastElementChild.remove();
    this.empty.hidden = true;
  }
}
