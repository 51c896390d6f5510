// The contract of the control service: calls by POST, subscriptions by WebSocket. Behind `etherctl dashboard`
// both show the session that the token of the URL was exchanged for; elsewhere the browser shows its login.

const CONTROL = document.body.dataset.control;
const NAMESPACE = 'etherws.control.';
const KEPT = 'etherws.session';
const PATIENCE = 10_000;
const RETRY = 1000;

/** What the switch says no with. */
export class Refusal extends Error {
  constructor({ code, message, data }) {
    const why = typeof data === 'string' ? data : data === undefined ? '' : JSON.stringify(data);
    super(why && why !== message ? `${message}: ${why}` : message);
    this.code = code;
  }
}

export const METHOD_NOT_FOUND = -32601;
/** More than one answer may have. */
export const TOO_MANY = -32001;

let kept = JSON.parse(sessionStorage.getItem(KEPT) ?? 'null');

/** Exchanges the token of the URL, which works once; what the switch is called. */
export const open = async () => {
  const token = /^#token=([0-9a-f]{64})$/.exec(location.hash)?.[1];
  if (token) {
    history.replaceState(null, '', location.pathname + location.search);
    const reply = await fetch('/session', { method: 'POST', body: JSON.stringify({ token }) });
    if (!reply.ok) throw new Error(await said(reply));
    kept = await reply.json();
    sessionStorage.setItem(KEPT, JSON.stringify(kept));
  }
  return kept?.switch ?? location.host;
};

/** What an answer that is no JSON-RPC says, in a line. */
const said = async (reply) => {
  const text = (await reply.text()).trim().split('\n')[0].slice(0, 300);
  return text || `HTTP ${reply.status}`;
};

let number = 0;

/** Asks several questions at once: results in their order, a Refusal where there is none. */
export const ask = async (...questions) => {
  const body = questions.map(([method, params]) => (
    { jsonrpc: '2.0', id: ++number, method: NAMESPACE + method, params: params ?? {} }));
  const headers = { 'content-type': 'application/json' };
  if (kept) headers.authorization = `Bearer ${kept.session}`;
  const signal = AbortSignal.timeout(PATIENCE);
  const reply = await fetch(CONTROL, { method: 'POST', headers, body: JSON.stringify(body), signal })
    .catch((why) => {
      const late = why.name === 'TimeoutError';
      throw new Error(late ? 'no answer in time' : `nobody answers at ${location.host} any more`);
    });
  if (!reply.ok) throw new Error(await said(reply));
  const answers = new Map((await reply.json()).map((answer) => [answer.id, answer]));
  return body.map(({ id }) => {
    const answer = answers.get(id);
    if (answer?.error) return new Refusal(answer.error);
    if (answer?.result === undefined) throw new Error('an answer is missing');
    return answer.result;
  });
};

/** Asks one; throws the Refusal. */
export const call = async (method, params) => {
  const [result] = await ask([method, params]);
  if (result instanceof Refusal) throw result;
  return result;
};

/**
 * Subscriptions on one WebSocket, which is opened again when it breaks. Each of `wanted` is
 * `{ method, params, notification, hear }`; `changed(connected)` is told how it stands.
 */
export class Subscriptions {
  constructor(changed) {
    this.changed = changed;
    this.wanted = [];
    this.socket = null;
  }

  /** Subscribes to these, and to nothing else; none: the connection is closed. */
  want(wanted) {
    this.wanted = wanted;
    clearTimeout(this.retry);
    this.close();
    if (wanted.length > 0) this.connect();
  }

  close() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  connect() {
    const url = new URL(CONTROL, location.href);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(url, kept ? [`etherws.session.${kept.session}`] : []);
    const { wanted } = this;
    this.socket = socket;
    socket.onopen = () => {
      wanted.forEach(({ method, params }, id) => {
        socket.send(JSON.stringify({ jsonrpc: '2.0', id, method: NAMESPACE + method, params }));
      });
      this.changed(true);
    };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      const of = wanted.find(({ notification }) => NAMESPACE + notification === message.method);
      if (of && this.socket === socket) of.hear(message.params.result);
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.changed(false);
      this.retry = setTimeout(() => this.connect(), RETRY);
    };
  }
}
