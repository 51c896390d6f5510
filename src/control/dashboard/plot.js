// The last minutes, drawn: a line for each figure, a scale with units, and the same as a table.

import { clock } from './format.js';
import { element, write } from './table.js';

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 150;
const LEFT = 74;
const TOP = 8;
const BOTTOM = 20;

const drawn = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

/** 5.00 µs is 5 µs. */
const whole = (text) => text.replace(/\.0+(?= )/, '').replace(/(\.\d)0+(?= )/, '$1');

/** 1, 2 or 5 times a power of ten. */
const nice = (value) => {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
};

/**
 * Series are `{ key, name }` of samples `{ at, [key] }`, null where nothing is known; `show` writes a value
 * with its unit; `least` is the smallest full scale; `log`: decades.
 */
export class Plot {
  constructor(figure, { series, show, least, log = false, length }) {
    Object.assign(this, { series, show, least, log, length });
    this.samples = [];
    this.at = null;
    this.name = figure.querySelector('figcaption').textContent;
    this.svg = drawn('svg', { role: 'img', tabindex: '0', height: HEIGHT });
    this.grid = this.svg.appendChild(drawn('g', { class: 'grid' }));
    this.lines = series.map(({ key }) => this.svg.appendChild(drawn('path', { class: `line ${key}` })));
    this.cursor = this.svg.appendChild(drawn('line', { class: 'cursor', y1: TOP, y2: HEIGHT - BOTTOM }));
    this.values = series.map(({ key, name }) => {
      const value = element('b');
      const entry = element('span', { className: key }, element('i', { 'aria-hidden': 'true' }), `${name} `, value);
      return { entry, value };
    });
    this.when = element('span', { className: 'when' });
    const legend = element('p', { className: 'legend' }, ...this.values.map(({ entry }) => entry), this.when);
    const head = element('tr', {}, ...['Time', ...series.map(({ name }) => name)].map(
      (text) => element('th', { scope: 'col', textContent: text })));
    this.body = element('tbody');
    this.details = element('details', {}, element('summary', { textContent: 'As a table' }),
      element('div', { className: 'scroll' }, element('table', {}, element('thead', {}, head), this.body)));
    figure.append(this.svg, legend, this.details);
    this.details.addEventListener('toggle', () => this.list());
    this.svg.addEventListener('pointermove', (event) => this.point(event.offsetX));
    this.svg.addEventListener('pointerleave', () => this.choose(null));
    this.svg.addEventListener('blur', () => this.choose(null));
    this.svg.addEventListener('keydown', (event) => this.press(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  update(samples) {
    this.samples = samples;
    this.draw();
    this.list();
  }

  x(index) {
    const width = this.svg.clientWidth - LEFT - 4;
    return LEFT + (width * (index + this.length - this.samples.length)) / (this.length - 1);
  }

  /** From a value to a height, and the values that have a line. */
  scale() {
    const values = this.samples.flatMap((sample) => this.series.map(({ key }) => sample[key] ?? 0));
    const most = Math.max(this.least, ...values);
    const span = HEIGHT - TOP - BOTTOM;
    if (!this.log) {
      const top = nice(most);
      return { y: (value) => TOP + span * (1 - value / top), marks: [0, top / 2, top] };
    }
    const [low, high] = [Math.log10(this.least) - 3, Math.ceil(Math.log10(most))];
    const y = (value) => {
      const share = (Math.log10(Math.max(value, 1e-9)) - low) / (high - low);
      return TOP + span * (1 - Math.min(1, Math.max(0, share)));
    };
    const decades = Array.from({ length: high - low + 1 }, (_, at) => 10 ** (low + at));
    return { y, marks: decades.filter((_, at) => decades.length < 6 || at % 2 === 0) };
  }

  draw() {
    const width = this.svg.clientWidth;
    if (width === 0) return;
    const { y, marks } = this.scale();
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.grid.replaceChildren(...marks.flatMap((mark) => {
      const text = drawn('text', { x: LEFT - 8, y: y(mark) + 4 });
      text.textContent = mark === 0 ? '0' : whole(this.show(mark));
      return [drawn('line', { x1: LEFT, x2: width, y1: y(mark), y2: y(mark) }), text];
    }), ...this.times(width));
    this.series.forEach(({ key }, at) => {
      let pen = false;
      const steps = this.samples.map((sample, index) => {
        const value = sample[key];
        if (value === null || value === undefined) {
          pen = false;
          return '';
        }
        const step = `${pen ? 'L' : 'M'}${this.x(index).toFixed(1)} ${y(value).toFixed(1)}${pen ? '' : 'h.1'}`;
        pen = true;
        return step;
      });
      this.lines[at].setAttribute('d', steps.join(''));
    });
    this.tell();
  }

  times(width) {
    const minutes = Math.floor((this.length - 1) / 60);
    return Array.from({ length: minutes + 1 }, (_, ago) => {
      const x = LEFT + ((width - LEFT - 4) * (this.length - 1 - 60 * ago)) / (this.length - 1);
      const text = drawn('text', { x, y: HEIGHT - 4, class: 'time' });
      text.textContent = ago === 0 ? 'now' : `${ago} min ago`;
      return text;
    });
  }

  /** The figures of the chosen moment, else of the last. */
  tell() {
    const index = this.at === null ? this.samples.length - 1 : this.at;
    const sample = this.samples[index];
    const figures = this.series.map(({ key, name }, at) => {
      const value = sample?.[key] ?? null;
      const text = value === null ? '–' : this.show(value);
      write(this.values[at].value, text);
      return `${name} ${text}`;
    });
    write(this.when, this.at === null || !sample ? '' : `at ${clock(sample.at)}`);
    this.cursor.style.display = this.at === null ? 'none' : '';
    this.cursor.setAttribute('x1', this.x(index));
    this.cursor.setAttribute('x2', this.x(index));
    const label = `${this.name}: ${figures.join(', ')}`;
    if (this.svg.getAttribute('aria-label') !== label) this.svg.setAttribute('aria-label', label);
  }

  choose(at) {
    this.at = at === null ? null : Math.min(this.samples.length - 1, Math.max(0, at));
    if (this.samples.length > 0) this.tell();
  }

  point(offset) {
    const step = (this.svg.clientWidth - LEFT - 4) / (this.length - 1);
    this.choose(Math.round((offset - LEFT) / step) - this.length + this.samples.length);
  }

  press(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
    if (event.key === 'Escape') this.choose(null);
    else if (steps[event.key]) this.choose((this.at ?? this.samples.length - 1) + steps[event.key]);
    else return;
    event.preventDefault();
  }

  list() {
    if (!this.details.open) return;
    const rows = this.samples.slice(-60).reverse().map((sample) => {
      const values = this.series.map(({ key }) => {
        const value = sample[key] ?? null;
        return element('td', { className: 'number', textContent: value === null ? '–' : this.show(value) });
      });
      return element('tr', {}, element('th', { scope: 'row', textContent: clock(sample.at) }), ...values);
    });
    this.body.replaceChildren(...rows);
  }
}
