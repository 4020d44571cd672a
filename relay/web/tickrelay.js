// A typed client of tickrelay for browsers and Node.js 20 or newer, upon an unmodified pusher-js.
//
//   import Pusher from "pusher-js";
//   import { connect, channels } from "./tickrelay.js";
//
//   const relay = await connect(Pusher, { url: "http://127.0.0.1:6001", apiKey: "demo-api-key" });
//   relay.subscribe(channels.quote("synthetic", "BTC/USD"), { quote: ({ quote }) => console.log(quote.bid, quote.ask) });
//
// Its types are in tickrelay.d.ts. resume.js belongs beside it: events that were missed while the connection was lost are sent again.
import "./resume.js";

/** Seconds that a request may take, besides those that a command's provider has. */
const WITHIN = 10;
const MARKET_KINDS = ["quote", "depth", "public_trade", "signal", "reference", "instrument"];

export function quoteSymbol(symbol) {
  const bytes = (text) => [...new TextEncoder().encode(text)].map((byte) => `=${byte.toString(16).toUpperCase().padStart(2, "0")}`);
  return [...symbol].map((c) => (/[A-Za-z0-9_]/.test(c) ? c : c === "/" ? "-" : bytes(c).join(""))).join("");
}

export const channels = {
  ...Object.fromEntries(
    MARKET_KINDS.map((kind) => [kind, (provider, symbol, prefix = "") => `${prefix}${kind}.${provider}.${quoteSymbol(symbol)}`]),
  ),
  candle: (provider, symbol, timeframe, prefix = "") => `${prefix}candle.${provider}.${quoteSymbol(symbol)}.${timeframe}`,
  account: (provider, account) => `private-account.${provider}.${quoteSymbol(account)}`,
  status: (provider) => `status.${provider}`,
};

export class RefusedByRelay extends Error {
  constructor(status, message, code, field) {
    super(message);
    Object.assign(this, { name: "RefusedByRelay", status, code, field });
  }
}

export class OutcomeUnknown extends Error {
  constructor(message, key) {
    super(message);
    Object.assign(this, { name: "OutcomeUnknown", key });
  }
}

// --- books ----------------------------------------------------------------------------------------------------------

/** A decimal as sign, whole digits and digits of the fraction, without zeros that do not count. */
function digits(text) {
  const [whole, fraction = ""] = text.replace(/^-/, "").split(".");
  const parts = [whole.replace(/^0+/, ""), fraction.replace(/0+$/, "")];
  return { negative: text.startsWith("-") && parts.join("") !== "", whole: parts[0], fraction: parts[1] };
}

export function compareDecimals(a, b) {
  const [x, y] = [digits(a), digits(b)];
  if (x.negative !== y.negative) return x.negative ? -1 : 1;
  const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
  const size = x.whole.length - y.whole.length || compare(x.whole, y.whole) || compare(x.fraction, y.fraction);
  return x.negative ? -size : size;
}

/** The same for all ways to write one price. */
function priceKey(text) {
  const { negative, whole, fraction } = digits(text);
  return `${negative ? "-" : ""}${whole}.${fraction}`;
}

export class OrderBook {
  symbol = undefined;
  isValid = false;
  #told = undefined;
  #lost = undefined;
  #bids = new Map();
  #asks = new Map();

  take(message) {
    if (message.type === "staleness") this.#told = message.event === "FRESH" ? undefined : message;
    else if (message.type === "gap") this.#clear();
    else if (message.type === "depth") this.#depth(message.depth);
  }

  get stale() {
    return this.#lost?.reason ?? (this.#told && (this.#told.reason ?? "stale"));
  }

  get staleSince() {
    return this.#lost ? this.#lost.since : this.#told?.stale_since;
  }

  lose(reason, since) {
    this.#lost ??= { reason, since };
  }

  found() {
    this.#lost = undefined;
  }

  forget() {
    this.#told = undefined;
    this.#clear();
  }

  #clear() {
    this.isValid = false;
    this.#bids.clear();
    this.#asks.clear();
  }

  // A number that jumps is no loss of depth: for a slow reader the relay replaces what it drops by a snapshot.
  #depth({ symbol, bids, asks, snapshot }) {
    this.symbol = symbol;
    if (snapshot) {
      this.#clear();
      this.isValid = true;
      this.found(); // a relay without a history says no more than this
    }
    if (!this.isValid) return;
    for (const [side, levels] of [[this.#bids, bids], [this.#asks, asks]]) {
      for (const [price, size] of levels) {
        if (/[1-9]/.test(size)) side.set(priceKey(price), [price, size]);
        else side.delete(priceKey(price));
      }
    }
  }

  bids(depth) {
    return [...this.#bids.values()].sort(([a], [b]) => compareDecimals(b, a)).slice(0, depth);
  }

  asks(depth) {
    return [...this.#asks.values()].sort(([a], [b]) => compareDecimals(a, b)).slice(0, depth);
  }
}

// --- connection -----------------------------------------------------------------------------------------------------

export class Relay {
  #url;
  #apiKey;
  #subscriptions = new Map(); // channel -> the handlers of each subscription
  #books = new Map(); // channel -> its book, and the functions that are called with it
  #lost = new Set(); // channels of which something may be missing, since the connection was lost
  #heard = undefined; // when the last message came

  constructor(pusher, { url, apiKey, rewind = 0 }) {
    this.pusher = pusher;
    this.#url = url;
    this.#apiKey = apiKey;
    const failed = (channel, missed) => this.#subscriptions.get(channel)?.forEach((handlers) => handlers.missed?.(missed));
    const placed = (channel) => this.#lost.delete(channel) && this.#subscriptions.get(channel)?.forEach((handlers) => handlers.regained?.());
    globalThis.tickrelayResume(pusher, { failed, placed, rewind });
    pusher.connection.bind("message", () => { this.#heard = Date.now(); });
    pusher.connection.bind("state_change", ({ previous }) => { if (previous === "connected") this.#lose("not connected to the relay"); });
  }

  #lose(reason) {
    const since = this.#heard && new Date(this.#heard).toISOString();
    for (const [channel, all] of this.#subscriptions) {
      if (this.#lost.has(channel)) continue;
      this.#lost.add(channel);
      all.forEach((handlers) => handlers.lost?.({ reason, since }));
    }
  }

  subscribe(channel, handlers) {
    const { subscribed, refused, missed, lost, regained, ...kinds } = handlers;
    const bound = Object.entries({ ...kinds, "pusher:subscription_succeeded": subscribed, "pusher:subscription_error": refused });
    const others = this.#subscriptions.get(channel) ?? new Set();
    this.#subscriptions.set(channel, others.add(handlers));
    const pusherChannel = this.pusher.channel(channel) ?? this.pusher.subscribe(channel);
    for (const [event, handler] of bound) if (handler) pusherChannel.bind(event, handler);
    if (pusherChannel.subscribed && subscribed) queueMicrotask(subscribed);
    const unsubscribe = () => {
      if (!others.delete(handlers)) return;
      for (const [event, handler] of bound) if (handler) pusherChannel.unbind(event, handler);
      if (others.size || this.#subscriptions.get(channel) !== others) return;
      this.#subscriptions.delete(channel);
      this.#lost.delete(channel);
      this.pusher.unsubscribe(channel);
    };
    return { channel, unsubscribe };
  }

  // All books of a channel are one: the relay sends a snapshot to the first subscription only.
  book(channel, changed) {
    const shared = this.#books.get(channel) ?? this.#sharedBook(channel);
    shared.readers.add(changed);
    if (shared.book.isValid) queueMicrotask(() => shared.readers.has(changed) && changed(shared.book));
    const unsubscribe = () => {
      if (!shared.readers.delete(changed) || shared.readers.size) return;
      this.#books.delete(channel);
      shared.subscription.unsubscribe();
    };
    return { channel, book: shared.book, unsubscribe };
  }

  #sharedBook(channel) {
    if (this.#subscriptions.has(channel)) throw new Error(`${channel}: begin its book before other subscriptions of the channel`);
    const book = new OrderBook();
    const readers = new Set();
    const tell = () => readers.forEach((changed) => changed(book));
    const take = (message) => { book.take(message); tell(); };
    const missed = () => { book.forget(); tell(); };
    const lost = ({ reason, since }) => { book.lose(reason, since); tell(); };
    const regained = () => { book.found(); tell(); };
    const refused = ({ error }) => lost({ reason: `refused by the relay: ${error}` });
    const handlers = { depth: take, gap: take, staleness: take, missed, lost, regained, refused };
    const shared = { book, readers, subscription: this.subscribe(channel, handlers) };
    this.#books.set(channel, shared);
    return shared;
  }

  async command(command, { key = randomKey() } = {}) {
    const seconds = Number(command.within ?? 10) + WITHIN;
    let answer, body;
    try {
      answer = await request(`${this.#url}/api/v2/commands`, this.#apiKey, command, seconds, { "Idempotency-Key": key });
      body = await answer.json();
    } catch (error) {
      throw new OutcomeUnknown(`no answer to the command: ${reasonOf(error)}`, key);
    }
    const replayed = answer.headers.has("Idempotent-Replayed");
    if (body.type === "reply") return { reply: body, body, key, replayed };
    if (answer.status === 200 && body.dry_run) return { reply: undefined, body, key, replayed };
    if (answer.status >= 400 && answer.status < 500 && answer.status !== 408) throw refusal(answer.status, body);
    throw new OutcomeUnknown(`status ${answer.status}`, key);
  }

  async symbols(query, options = {}) {
    return this.#search("symbols", query, options);
  }

  async instruments(query, options = {}) {
    return this.#search("instruments", query, options);
  }

  #search(what, query, options) {
    const given = Object.entries({ q: query, ...options }).filter(([, value]) => value !== undefined);
    return ask(`${this.#url}/api/v2/${what}?${new URLSearchParams(given)}`, this.#apiKey);
  }

  close() {
    this.pusher.disconnect();
  }
}

export async function connect(Pusher, { url, apiKey, app, rewind, pusher: further = {} }) {
  const base = url.replace(/\/+$/, "");
  const query = app === undefined ? "" : `?app=${encodeURIComponent(app)}`;
  const { connection } = await ask(`${base}/api/v2/ws/session${query}`, apiKey, { subscriptions: [] });
  const { hostname, port, protocol } = new URL(base);
  const forceTLS = protocol === "https:";
  const number = Number(port) || (forceTLS ? 443 : 80);
  const client = new Pusher(connection.appKey, {
    cluster: "",
    wsHost: hostname,
    wsPort: number,
    wssPort: number,
    forceTLS,
    enabledTransports: ["ws"], // with forceTLS that is wss; with both, pusher-js tries TLS at a port that has none
    activityTimeout: 15_000,
    pongTimeout: 10_000,
    disableStats: true,
    channelAuthorization: { endpoint: `${base}/api/v2/ws/auth${query}`, transport: "ajax", headers: { Authorization: `Bearer ${apiKey}` } },
    ...further,
  });
  return new Relay(client, { url: base, apiKey, rewind });
}

// --- HTTP -----------------------------------------------------------------------------------------------------------

function request(url, apiKey, value, seconds = WITHIN, headers = {}) {
  const body = value === undefined ? {} : { method: "POST", body: JSON.stringify(value) };
  const all = { Authorization: `Bearer ${apiKey}`, ...(value === undefined ? {} : { "Content-Type": "application/json" }), ...headers };
  // A request that is redirected would be sent twice.
  return fetch(url, { ...body, headers: all, redirect: "error", signal: AbortSignal.timeout(seconds * 1000) });
}

async function ask(url, apiKey, value) {
  let answer;
  try {
    answer = await request(url, apiKey, value);
  } catch (error) {
    throw new Error(`cannot reach ${new URL(url).origin}: ${reasonOf(error)}; is the relay running?`, { cause: error });
  }
  const body = await answer.json().catch(() => null);
  if (body === null) throw new Error(`${new URL(url).origin} answers ${answer.status} without JSON: it is no relay`);
  if (answer.status !== 200) throw refusal(answer.status, body);
  return body;
}

function refusal(status, { error }) {
  return new RefusedByRelay(status, error?.message ?? `status ${status}`, error?.code, error?.details?.field);
}

const reasonOf = (error) => error.cause?.code ?? error.message;

// crypto.randomUUID is there on pages of https and localhost only.
const randomKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
