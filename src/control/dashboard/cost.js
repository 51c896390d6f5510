// What a frame costs: the profiler's stages as a table and as a flame graph.

import { percent, short, time } from './format.js';
import { DIRECTIONS, group, meaning, rows, sum, tree } from './profile.js';
import { Table, element, twoLines, write } from './table.js';

/** So many snapshots, of a second each, are looked at together: figures that can be read. */
const WINDOW = 10;

const maybe = (value, show) => (value === null ? '–' : show(value));

export class Cost {
  constructor(section) {
    this.snapshots = [];
    this.direction = section.querySelector('select');
    this.note = section.querySelector('.note');
    const text = (value) => (cell, row) => write(cell, value(row));
    const ns = (name, key) => ({
      name, number: true, sort: (row) => row[key] ?? -1, show: text((row) => maybe(row[key], time)),
    });
    this.table = new Table(section.querySelector('table'), [
      {
        name: 'Stage', title: true, sort: (row) => row.path,
        show: (cell, row) => {
          cell.dataset.group = group(row.path);
          twoLines(cell, row.path.replaceAll(';', ' › '), meaning(row.path));
        },
      },
      { name: 'Frames', number: true, sort: (row) => row.frames, show: text((row) => short(row.frames)) },
      ns('Per frame', 'own'),
      {
        name: 'Share', number: true, sort: (row) => row.share ?? -1,
        show: (cell, row) => {
          write(cell, maybe(row.share, percent));
          cell.style.setProperty('--share', `${row.share ?? 0}%`);
        },
      },
      ns('With below', 'deep'),
      ns('Per byte', 'perByte'),
      ns('Median', 'p50'),
      ns('99 %', 'p99'),
    ], (row) => row.path, { by: 'Share', down: true, empty: 'Nothing was measured yet.' });
    this.flame = new Flame(section.querySelector('.flame'), section.querySelector('.zoom'));
    this.direction.addEventListener('change', () => this.show());
  }

  /** What came since the last one. */
  hear(snapshot) {
    this.snapshots = [...this.snapshots, snapshot].slice(-WINDOW);
    this.show();
  }

  forget() {
    this.snapshots = [];
  }

  show() {
    const all = sum(this.snapshots);
    const sample = this.snapshots.at(-1)?.sample ?? 0;
    if (sample > 0) {
      const seconds = Math.max(1, Math.round(all.elapsed / 1e9));
      write(this.note, `The last ${seconds} s, one batch in ${sample} measured`);
    }
    this.table.update(rows(all, this.direction.value));
    this.flame.update(tree(all));
  }
}

const LEVEL = 24;

/**
 * A box for each place, as wide as the processor time it takes with all below it. A tree to a screen reader
 * and the keyboard: arrows go up, down and aside, Enter zooms in, Escape out.
 */
class Flame {
  constructor(box, out) {
    this.box = box;
    this.path = out.querySelector('span');
    this.out = out.querySelector('button');
    this.root = null;
    this.zoomed = '';
    this.focus = '';
    this.boxes = new Map();
    box.addEventListener('click', (event) => this.zoom(event.target.closest('[role=treeitem]')?.dataset.key));
    box.addEventListener('keydown', (event) => this.press(event));
    box.addEventListener('focusin', (event) => this.rove(event.target.dataset.key));
    this.out.addEventListener('click', () => this.zoom(this.find(this.zoomed).above?.key));
  }

  update(root) {
    this.root = root;
    this.zoomed = this.find(this.zoomed).key;
    this.draw();
  }

  /** The place of that key, or the last on the way there that is left. */
  find(key) {
    let at = this.root;
    for (const name of key.split('/').slice(1)) at = at.below.get(name) ?? at;
    return at;
  }

  zoom(key) {
    if (key === undefined || !this.root) return;
    this.zoomed = key;
    this.focus = key;
    this.draw();
    this.boxes.get(key)?.focus();
  }

  draw() {
    const top = this.find(this.zoomed);
    const chain = [];
    for (let at = top; at; at = at.above) chain.unshift(at);
    const shown = new Set();
    let deepest = 0;
    const place = (at, level, left, width, context) => {
      // Less than half a pixel of a wide screen, and all below it.
      if (width < 0.03) return;
      shown.add(at.key);
      deepest = Math.max(deepest, level);
      this.put(at, level, left, width, context);
      if (context) return;
      let from = left;
      for (const child of at.children) {
        const share = at.total > 0 ? (width * child.total) / at.total : 0;
        place(child, level + 1, from, share, false);
        from += share;
      }
    };
    chain.forEach((at, level) => place(at, level, 0, 100, at !== top));
    for (const [key, box] of this.boxes) {
      if (shown.has(key)) continue;
      if (box === document.activeElement) this.focus = top.key;
      box.remove();
      this.boxes.delete(key);
    }
    this.box.style.height = `${(deepest + 1) * LEVEL}px`;
    this.out.disabled = top === this.root;
    write(this.path, chain.map((at) => label(at)).join(' › '));
    if (!this.boxes.has(this.focus)) this.focus = top.key;
    this.rove(this.focus);
  }

  put(at, level, left, width, context) {
    let box = this.boxes.get(at.key);
    if (!box) {
      box = element('div', { role: 'treeitem', tabIndex: -1, 'data-key': at.key, 'data-group': hue(at) });
      this.boxes.set(at.key, box);
      this.box.append(box);
    }
    box.style.left = `${left}%`;
    box.style.width = `${width}%`;
    box.style.top = `${level * LEVEL}px`;
    box.classList.toggle('context', context);
    box.setAttribute('aria-level', level + 1);
    write(box, label(at));
    const { total, frames } = this.root;
    const share = total > 0 ? percent((100 * at.total) / total) : '–';
    const each = frames > 0 ? `, ${time(at.total / frames)} a frame` : '';
    const text = `${label(at)}: ${share} of the processor time${each}`;
    box.title = [text, meaning(at.name)].filter(Boolean).join('\n');
    box.setAttribute('aria-label', text);
    if (at.children.length > 0) box.setAttribute('aria-expanded', String(!context));
    else box.removeAttribute('aria-expanded');
  }

  /** One box alone is in the order of Tab. */
  rove(key) {
    if (!this.boxes.has(key)) return;
    const before = this.boxes.get(this.focus);
    if (before) before.tabIndex = -1;
    this.focus = key;
    this.boxes.get(key).tabIndex = 0;
  }

  press(event) {
    const at = this.find(this.focus);
    const aside = (step) => {
      const beside = at.above?.children.filter((child) => this.boxes.has(child.key)) ?? [];
      return beside[beside.indexOf(at) + step];
    };
    const to = {
      ArrowUp: () => at.above,
      ArrowDown: () => at.children.find((child) => this.boxes.has(child.key)),
      ArrowLeft: () => aside(-1),
      ArrowRight: () => aside(1),
      Home: () => this.root,
    }[event.key];
    if (to) this.boxes.get(to()?.key)?.focus();
    else if (event.key === 'Enter' || event.key === ' ') this.zoom(at.key);
    else if (event.key === 'Escape') this.zoom(this.find(this.zoomed).above?.key);
    else return;
    event.preventDefault();
  }
}

const label = (at) => (at.above?.key === '' ? DIRECTIONS[at.name] ?? at.name : at.name);

/** What colour a box has: its part of a frame's way. */
const hue = (at) => {
  const [, , of] = at.key.split('/');
  return of ?? 'whole';
};
