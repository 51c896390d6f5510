// Tables whose rows stay where the eye and the focus are while their figures change. What is shown goes into
// the page as text, whoever it came from.

/** An element with properties, attributes (those with a dash, and `role`) and children. */
export const element = (name, properties = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes('-') || key === 'role') made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
};

/** Sets a text only where it differs: nothing is read out or laid out anew for nothing. */
export const write = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

/** A cell's text with a second, quieter line. */
export const twoLines = (cell, first, second) => {
  if (cell.children.length !== 2) {
    cell.replaceChildren(element('span', { className: 'first' }), element('small', {}));
  }
  write(cell.children[0], first);
  write(cell.children[1], second);
};

/**
 * Columns are `{ name, sort, show(cell, row), number, title, quiet }`; a column without `sort` is not sorted by,
 * one with `title` heads the row where a narrow page lays tables out as lists (for which roles are said aloud).
 * `key(row)` tells rows apart.
 */
export class Table {
  constructor(table, columns, key, { by, down = false, empty }) {
    this.columns = columns;
    this.key = key;
    this.order = { by, down };
    this.rows = new Map();
    this.data = [];
    this.empty = element('p', { className: 'empty', hidden: true, textContent: empty });
    table.setAttribute('role', 'table');
    this.headers = columns.map((column) => this.header(column));
    const row = element('tr', { role: 'row' }, ...this.headers);
    this.body = element('tbody', { role: 'rowgroup' });
    table.append(element('thead', { role: 'rowgroup' }, row), this.body);
    table.after(this.empty);
    this.mark();
  }

  header(column) {
    const cell = element('th', { role: 'columnheader', scope: 'col', className: column.number ? 'number' : '' });
    if (!column.sort) {
      cell.append(element('span', { className: column.quiet ? 'unseen' : '', textContent: column.name }));
      return cell;
    }
    const button = element('button', { type: 'button', textContent: column.name });
    button.addEventListener('click', () => {
      const { by, down } = this.order;
      this.order = { by: column.name, down: by === column.name ? !down : Boolean(column.number) };
      this.mark();
      this.arrange();
    });
    cell.append(button);
    return cell;
  }

  mark() {
    this.columns.forEach((column, at) => {
      if (!column.sort) return;
      const here = column.name === this.order.by;
      const order = here ? (this.order.down ? 'descending' : 'ascending') : 'none';
      this.headers[at].setAttribute('aria-sort', order);
    });
  }

  update(data) {
    this.data = data;
    const seen = new Set();
    for (const row of data) {
      const key = this.key(row);
      seen.add(key);
      let made = this.rows.get(key);
      if (!made) {
        made = this.make();
        this.rows.set(key, made);
      }
      this.columns.forEach((column, at) => column.show(made.cells[at], row));
    }
    for (const [key, { line }] of this.rows) {
      if (seen.has(key)) continue;
      line.remove();
      this.rows.delete(key);
    }
    this.empty.hidden = data.length > 0;
    this.arrange();
  }

  make() {
    const cells = this.columns.map((column) => element('td', {
      role: 'cell',
      'data-name': column.quiet ? '' : column.name,
      className: column.title ? 'title' : column.number ? 'number' : '',
    }));
    return { line: element('tr', { role: 'row' }, ...cells), cells };
  }

  /** Moves only the rows that stand in another place. */
  arrange() {
    const column = this.columns.find(({ name }) => name === this.order.by);
    const sign = this.order.down ? -1 : 1;
    const sorted = this.data.map((row) => [column.sort(row), row]);
    sorted.sort(([a], [b]) => sign * compare(a, b));
    const focused = document.activeElement;
    let next = this.body.firstElementChild;
    for (const [, row] of sorted) {
      const { line } = this.rows.get(this.key(row));
      if (line === next) {
        next = next.nextElementSibling;
      } else {
        this.body.insertBefore(line, next);
      }
    }
    // What is moved loses the focus.
    if (focused !== document.activeElement && this.body.contains(focused)) focused.focus({ preventScroll: true });
  }
}

const collator = new Intl.Collator(undefined, { numeric: true });

const compare = (a, b) => (
  typeof a === 'number' && typeof b === 'number' ? a - b : collator.compare(String(a), String(b)));
