// What the profiler's snapshots say, added up. Pure. The rules are those of `etherctl prof show`: own time is
// added up, never averaged; what passes without a processor stands in no sum of it.

export const DIRECTIONS = { 'c>s': 'client to server', 's>c': 'server to client', local: 'over no link' };

/** Time that passes without a processor. */
export const isWall = (path) => path === 'rx.wait' || path === 'q.wait';

/** rx, sw, q or tx; other: no frame's. */
export const group = (path) => /^(rx|sw|q|tx)\./.exec(path)?.[1] ?? 'other';

const leaf = (path) => path.slice(path.lastIndexOf(';') + 1);

const MEANINGS = {
  'rx.wait': 'asleep until something comes',
  'rx.tap.read': 'read from a TAP',
  'rx.dev.read': 'read from a network card',
  'rx.sock.read': 'read from a socket',
  'rx.tls.open': 'TLS records decrypted',
  'rx.ws.parse': 'messages found',
  'rx.ws.unmask': 'masks taken off',
  'sw.parse': 'headers and VLAN',
  'sw.learn': 'source learned',
  'sw.lookup': 'destination looked up',
  'sw.flood': 'ports of a flood',
  'sw.segment': 'super-frames split',
  'sw.merge': 'segments put together',
  'sw.drop': 'frames that go nowhere',
  'q.wait': 'waiting in a link’s queue',
  'tx.ws.encode': 'message header and copy',
  'tx.ws.mask': 'mask put on',
  'tx.tls.seal': 'TLS records encrypted',
  'tx.sock.write': 'written to a socket',
  'tx.tap.write': 'written to a TAP',
  'tx.dev.write': 'written to a network card',
  ctl: 'control',
  timer: 'keep-alives',
  poll: 'the runtime between batches',
  'prof.self': 'the profiler’s clock reads',
  unaccounted: 'what no stage explains',
};

export const meaning = (path) => MEANINGS[leaf(path)] ?? '';

/** Snapshots that each count since the one before, as one. */
export const sum = (snapshots) => {
  const cells = new Map();
  const spans = new Map();
  const threads = new Map();
  let elapsed = 0;
  for (const snapshot of snapshots) {
    elapsed += snapshot.elapsed_ns;
    for (const cell of snapshot.cells) {
      const key = [cell.thread, cell.port, cell.dir, cell.size, cell.path].join('\n');
      const made = cells.get(key);
      if (made) {
        made.frames += cell.frames;
        made.bytes += cell.bytes;
        made.ns += cell.ns;
      } else cells.set(key, { ...cell });
    }
    for (const span of snapshot.spans) {
      const key = [span.thread, span.port, span.path].join('\n');
      const made = spans.get(key) ?? { port: span.port, path: span.path, max: 0, hist: new Map() };
      spans.set(key, made);
      made.max = Math.max(made.max, span.max_ns);
      for (const [bucket, times] of span.hist) made.hist.set(bucket, (made.hist.get(bucket) ?? 0) + times);
    }
    for (const { name, staged_cpu_ns: ns } of snapshot.threads) threads.set(name, (threads.get(name) ?? 0) + ns);
  }
  const all = [...cells.values()];
  // What no stage explains of each thread's processor time.
  for (const [thread, staged] of threads) {
    const explained = total(all.filter((cell) => cell.thread === thread && !isWall(cell.path)));
    if (staged > explained) {
      all.push({
        thread, port: 0, dir: 'local', size: '', path: 'unaccounted', frames: 0, bytes: 0, ns: staged - explained,
      });
    }
  }
  return { elapsed, ghz: snapshots.at(-1)?.ghz || 1, cells: all, spans: [...spans.values()] };
};

const total = (cells) => cells.reduce((ns, cell) => ns + cell.ns, 0);

/** Frames and bytes that went through: a copy of a flood is no further frame. */
export const volume = (cells) => {
  const allWait = cells.every((cell) => isWall(cell.path));
  const stages = new Map();
  for (const cell of cells) {
    if (cell.frames === 0 || (isWall(cell.path) && !allWait)) continue;
    const key = `${cell.dir}\n${cell.path}`;
    const made = stages.get(key) ?? { dir: cell.dir, path: cell.path, frames: 0, bytes: 0 };
    stages.set(key, made);
    made.frames += cell.frames;
    made.bytes += cell.bytes;
  }
  const sum = { frames: 0, bytes: 0 };
  for (const dir of Object.keys(DIRECTIONS)) {
    const here = [...stages.values()].filter((stage) => stage.dir === dir);
    const inward = here.filter(({ path }) => ['rx', 'sw'].includes(group(path)) && !path.includes(';'));
    const most = (inward.length > 0 ? inward : here).reduce(
      (best, stage) => (stage.frames > best.frames ? stage : best), { frames: 0, bytes: 0 });
    sum.frames += most.frames;
    sum.bytes += most.bytes;
  }
  return sum;
};

/** The middle of a histogram's bucket: exact below 8 ticks, then eight buckets to a power of two. */
const bucketNs = (index, ghz) => {
  const [block, sub] = [Math.floor(index / 8), index % 8];
  if (block === 0) return sub / ghz;
  const shift = 2 ** Math.min(block - 1, 40);
  return ((8 + sub) * shift + (9 + sub) * shift - 1) / 2 / ghz;
};

const quantile = (spans, q, ghz) => {
  const hist = new Map();
  let times = 0;
  for (const span of spans) {
    for (const [bucket, n] of span.hist) {
      hist.set(bucket, (hist.get(bucket) ?? 0) + n);
      times += n;
    }
  }
  if (times === 0) return null;
  let seen = 0;
  const [bucket] = [...hist].sort(([a], [b]) => a - b).find(([, n]) => (seen += n) >= q * times);
  const most = Math.max(...spans.map((span) => span.max));
  return Math.min(bucketNs(bucket, ghz), most || Infinity);
};

/** A row for each place in the tree; `dir`: of one direction, whose spread is not known. */
export const rows = ({ cells, spans, ghz }, dir) => {
  const chosen = dir ? cells.filter((cell) => cell.dir === dir) : cells;
  const cpu = total(chosen.filter((cell) => !isWall(cell.path)));
  return [...new Set(chosen.map((cell) => cell.path))].map((path) => {
    const own = chosen.filter((cell) => cell.path === path);
    const below = chosen.filter((cell) => cell.path.startsWith(`${path};`));
    const { frames, bytes } = volume(own);
    const here = dir ? [] : spans.filter((span) => span.path === path);
    const wall = isWall(path);
    const ownNs = total(own);
    const deepNs = ownNs + total(below);
    return {
      path,
      wall,
      frames,
      ownNs,
      own: frames > 0 ? ownNs / frames : null,
      deep: frames > 0 ? deepNs / frames : null,
      share: wall || cpu === 0 ? null : (100 * ownNs) / cpu,
      perByte: bytes > 0 ? ownNs / bytes : null,
      p50: quantile(here, 0.5, ghz),
      p99: quantile(here, 0.99, ghz),
    };
  });
};

/** How long frames wait in queues, and how much processor time a frame takes; of a port, or of all (0). */
export const delays = ({ cells, spans, ghz }, port) => {
  const here = port === 0 ? cells : cells.filter((cell) => cell.port === port);
  const queued = here.filter((cell) => cell.path === 'q.wait');
  const waited = volume(queued).frames;
  const worked = here.filter((cell) => ['rx', 'sw', 'tx'].includes(group(cell.path)) && !isWall(cell.path));
  const frames = volume(worked).frames;
  const of = spans.filter((span) => span.path === 'q.wait' && (port === 0 || span.port === port));
  return {
    queue: waited > 0 ? total(queued) / waited : null,
    queue99: quantile(of, 0.99, ghz),
    inside: frames > 0 ? total(worked) / frames : null,
  };
};

const GROUPS = ['rx', 'sw', 'tx', 'other'];

/** Processor time as a tree: all, the direction, rx, sw, tx or other, the stages. */
export const tree = ({ cells }) => {
  const root = node('all', '', null);
  for (const cell of cells) {
    if (isWall(cell.path) || cell.ns === 0) continue;
    let at = root;
    at.total += cell.ns;
    for (const name of [cell.dir, group(cell.path), ...cell.path.split(';')]) {
      if (!at.below.has(name)) at.below.set(name, node(name, `${at.key}/${name}`, at));
      at = at.below.get(name);
      at.total += cell.ns;
    }
  }
  for (const [dir, made] of root.below) made.frames = volume(cells.filter((cell) => cell.dir === dir)).frames;
  root.frames = volume(cells).frames;
  return arranged(root);
};

const node = (name, key, above) => ({ name, key, above, total: 0, below: new Map(), children: [] });

const arranged = (at) => {
  const rank = (child) => {
    const found = GROUPS.indexOf(child.name);
    return found < 0 ? GROUPS.length : found;
  };
  at.children = [...at.below.values()].map(arranged);
  at.children.sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
  return at;
};
