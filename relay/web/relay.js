// The page's connection to the relay: HTTP with the API key, one pusher-js client, and the status, asked for again and again.
// All of it is what any application may use.

/** Of the relay that this page came with; another one's status may lack what is shown here. */
export const VERSION = document.querySelector('meta[name="tickrelay-version"]').content;
const EVERY = 2000, STREAMS = 500, AT_ONCE = 100;

export const relay = {
  status: null,        // the last answer of /api/v2/status
  pusher: null,
  key: null,           // the API key in use
  isDemo: false,       // the key is the demo's, which the relay gave
  received: 0,         // events on this page's connection
  latency: null,       // milliseconds from the relay's socket to this page, by both clocks
  lost: null,          // since when nothing was heard of the relay
  problem: "",         // why the last request failed
  closed: "",          // why the relay closed the connection, with its code
  skew: 0,             // milliseconds that the relay's clock is ahead of the browser's
};

const listeners = new Map();
/** Call `handler` whenever `name` happens: "started", "status", "message", "known", "resume-failed". */
export function on(name, handler) { listeners.set(name, [...(listeners.get(name) ?? []), handler]); }
function tell(name, ...values) { for (const handler of listeners.get(name) ?? []) handler(...values); }

/** Milliseconds since 1970 by the relay's clock. */
export const now = () => Date.now() + relay.skew;
/** Seconds since a time stamp of the relay. */
export const since = (iso) => (now() - Date.parse(iso ?? "")) / 1000;

// --- HTTP -----------------------------------------------------------------------------------------------------------

export class Refused extends Error {
  constructor(status, message, answer = null, wait = 0) {
    super(message);
    this.status = status;
    this.answer = answer;
    this.wait = wait;
  }
}

/** Ask the relay. Returns {status, data, headers}. Throws `Refused` for a refusal, status 0 where there was no answer. */
export async function ask(path, { method = "GET", body, headers = {}, key = relay.key } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method, cache: "no-store", signal: AbortSignal.timeout(60_000),
      headers: { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(body ? { "Content-Type": "application/json" } : {}), ...headers },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    throw new Refused(0, error.name === "TimeoutError" ? "the relay did not answer within 60 s" : "the relay cannot be reached");
  }
  const date = Date.parse(answer.headers.get("Date") ?? "");
  if (!Number.isNaN(date)) relay.skew = Math.abs(date + 500 - Date.now()) > 2000 ? date + 500 - Date.now() : 0;
  const data = await answer.json().catch(() => null);
  if (answer.status >= 400 && !data?.outcome) {
    const message = data?.error?.message ?? data?.message ?? data?.error ?? `HTTP status ${answer.status}`;
    throw new Refused(answer.status, String(message), data, Number(answer.headers.get("Retry-After") ?? 0));
  }
  return { status: answer.status, data, headers: answer.headers };
}

/** The channels of catalog streams, [{stream, filter}], in their order. */
export async function channelsOf(subscriptions) {
  const channels = [];
  for (let n = 0; n < subscriptions.length; n += AT_ONCE) {
    const { data } = await ask("api/v2/ws/session", { method: "POST", body: { subscriptions: subscriptions.slice(n, n + AT_ONCE) } });
    channels.push(...data.subscriptions.map(({ channel }) => channel));
  }
  return channels;
}

// --- channels -------------------------------------------------------------------------------------------------------

const holders = new Map(); // channel -> number of views that hold it

/** Subscribe, with a handler per event; returns a function that ends it. Views may hold the same channel. */
export function subscribe(name, handlers = {}) {
  holders.set(name, (holders.get(name) ?? 0) + 1);
  const channel = relay.pusher.subscribe(name);
  for (const [event, handler] of Object.entries(handlers)) channel.bind(event, handler);
  let held = true;
  return () => {
    if (!held) return;
    held = false;
    for (const [event, handler] of Object.entries(handlers)) channel.unbind(event, handler);
    holders.set(name, holders.get(name) - 1);
    if (holders.get(name) === 0) { holders.delete(name); relay.pusher.unsubscribe(name); }
  };
}

/** Wait until the relay has let the page join a channel, or refused it: what happens before is not told. */
export function joined(name) {
  const channel = relay.pusher.channel(name);
  return channel.subscribed ? Promise.resolve() : new Promise((resolve) => {
    channel.bind("pusher:subscription_succeeded", resolve);
    channel.bind("pusher:subscription_error", resolve);
  });
}

export const heldChannels = () => [...holders.keys()];

/** pusher-js options for this relay: those of any application. */
export function pusherOptions(authEndpoint = "api/v2/ws/auth") {
  return {
    wsHost: location.hostname, wsPort: location.port || 80, wssPort: location.port || 443,
    forceTLS: location.protocol === "https:", enabledTransports: ["ws", "wss"], disableStats: true, cluster: "",
    channelAuthorization: { endpoint: authEndpoint, transport: "ajax", headers: { Authorization: `Bearer ${relay.key ?? ""}` } },
  };
}

/** Past events to ask for where a channel is joined: enough to fill a chart and a tape. */
const REWIND = { candle: 300, public_trade: 30 };
const kindOf = (channel) => channel.replace(/^(private-|presence-)?(cache-)?/, "").split(".")[0];

// --- life -----------------------------------------------------------------------------------------------------------

/**
 * Sign in and connect, once: nothing happens where `isWanted` is false when the relay has answered. Throws `Refused`, with
 * status 401 where a key is needed or the key is wrong.
 */
export async function connect(given, isWanted) {
  const { data: status } = await ask("api/v2/status?limit=500", { key: given });
  const isDemo = !given && Boolean(status.demo_api_key), key = isDemo ? status.demo_api_key : given;
  let app = status.app_key;
  if (key) app = (await ask("api/v2/ws/session", { method: "POST", body: { subscriptions: [] }, key })).data.connection.appKey;
  if (!isWanted() || relay.pusher) return;
  if (!app) throw new Refused(0, "the relay has no [apps]: nobody can subscribe");
  Object.assign(relay, { key, isDemo });
  relay.pusher = new Pusher(app, pusherOptions());
  tickrelayResume(relay.pusher, { failed: (channel, why) => tell("resume-failed", channel, why), rewind: (name) => REWIND[kindOf(name)] ?? 0 });
  relay.pusher.connection.bind("error", (error) => { relay.closed = closing(error?.error?.data); });
  relay.pusher.connection.bind("state_change", ({ current }) => {
    if (current === "connected") relay.closed = "";
    known(relay.problem === "");
  });
  relay.pusher.connection.bind("message", (message) => {
    if (!message.channel || message.event.startsWith("pusher")) return;
    relay.received += 1;
    const at = Date.parse(message.data?.received_at ?? "");
    if (!Number.isNaN(at)) relay.latency = now() - at;
    tell("message", message);
  });
  if (!isDemo && key) sessionStorage.setItem("tickrelay-key", key);
  tell("started", status);
  await poll(); // the status that this key may see: what is told without one has no accounts
}

async function poll() {
  let wait = EVERY;
  try {
    const { data } = await ask(`api/v2/status?limit=${STREAMS}`);
    relay.status = data;
    relay.problem = "";
    tell("status", data);
    known(true);
  } catch (error) {
    if (error.status === 429) wait = Math.max(wait, 1000 * error.wait, 5000); // asked too often, and the relay is there
    else {
      relay.problem = error.status === 401 ? "the relay does not know this API key any more" : error.message;
      known(false);
    }
  }
  setTimeout(poll, wait);
}

/** The relay's reason for a close, with its code; empty where the connection was lost without one. */
function closing(data) {
  if (!data?.code) return "";
  const todo = /origin/i.test(data.message) ? `: add ${location.origin} to allowed_origins of the app` : "";
  return `${data.code} ${data.message ?? ""}${todo}`;
}

/** Without the relay nothing on the page is known to be true any more. */
function known(answered) {
  const is = answered && relay.pusher.connection.state === "connected";
  relay.lost = is ? null : relay.lost ?? new Date();
  tell("known", is);
}

export function signOut() {
  sessionStorage.removeItem("tickrelay-key");
  location.reload();
}
