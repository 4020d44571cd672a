// Debug console: a connection of its own to any app of the relay, to see exactly what a client sees.

import { $, element, setText } from "./dom.js";
import { ask, on, pusherOptions, relay } from "./relay.js";
import { sendAsServer } from "./server_event.js";

const LOG = 300;
let pusher = null, opening = null, app = {};
const names = new Set();
$("debug-log").dataset.empty = "Connect, subscribe to a channel, and send an event.";

on("status", ({ hub }) => {
  const ids = Object.keys(hub.apps ?? {}), text = ids.join();
  if ($("apps").dataset.text === text) return;
  $("apps").dataset.text = text;
  $("apps").replaceChildren(...ids.map((value) => element("option", { value })));
});

function log(title, data, state = "") {
  const body = data === undefined ? null : element("pre", {}, typeof data === "string" ? data : JSON.stringify(data, null, 1));
  const item = element("li", {}, element("time", {}, new Date().toTimeString().slice(0, 8)), element("span", { "data-state": state }, title), body);
  item.hidden = !matches(item);
  $("debug-log").prepend(item);
  while ($("debug-log").children.length > LOG) $("debug-log").lastChild.remove();
}

const matches = (item) => item.textContent.toLowerCase().includes($("debug-filter").value.trim().toLowerCase());
$("debug-filter").addEventListener("input", () => { for (const item of $("debug-log").children) item.hidden = !matches(item); });
$("debug-clear").addEventListener("click", () => $("debug-log").replaceChildren());

// --- connection -----------------------------------------------------------------------------------------------------

$("debug-connect").addEventListener("submit", async (event) => {
  event.preventDefault();
  await open();
});

/** Connect to the app named now. Whoever asks while it is under way waits for the same connection. */
function open() {
  close();
  const mine = (opening = connect(() => opening === mine).finally(() => { if (opening === mine) opening = null; }));
  return mine;
}

async function connect(isWanted) {
  const named = $("debug-app").value.trim();
  let { app_key: key } = relay.status, query = "";
  try {
    if (relay.key) {
      ({ data: { connection: { appKey: key } } } = await ask("api/v2/ws/session", { method: "POST", body: { subscriptions: [], ...(named ? { app: named } : {}) } }));
      if (named) query = `?app=${encodeURIComponent(named)}`;
    } else if (named) key = named;
  } catch (error) { if (isWanted()) log(`cannot connect: ${error.message}`, undefined, "failed"); return; }
  if (!isWanted()) return;
  const made = (pusher = new Pusher(key, pusherOptions(`api/v2/ws/auth${query}`)));
  app = { id: named || Object.keys(relay.status.hub.apps ?? {})[0] || "", key };
  sender();
  made.connection.bind("state_change", ({ current }) => {
    if (made !== pusher) return;
    state(current);
    log(`connection ${current}${current === "connected" ? `, socket ${made.connection.socket_id}` : ""}`, undefined, current);
  });
  made.connection.bind("error", (error) => { if (made === pusher) log("error", error?.error?.data ?? error?.data ?? error, "failed"); });
  made.connection.bind("message", ({ event, channel, data, user_id: user }) => {
    if (made === pusher && event !== "pusher:pong") log([event, channel && `on ${channel}`, user && `by ${user}`].filter(Boolean).join(" "), data, event.startsWith("pusher:error") ? "failed" : "");
  });
  state(made.connection.state);
  $("debug-close").disabled = false;
}

function close() {
  const before = pusher;
  pusher = null;
  opening = null;
  before?.disconnect();
  names.clear();
  chips();
  state("");
  $("debug-close").disabled = true;
}
$("debug-close").addEventListener("click", () => { log("disconnected by this page"); close(); });

function state(name) {
  setText($("debug-state"), name || "not connected");
  $("debug-state").dataset.state = name;
}

// --- channels -------------------------------------------------------------------------------------------------------

$("debug-subscribe").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("debug-channel").value.trim();
  if (!name || names.has(name)) return;
  if (pusher === null) await (opening ?? open());
  if (pusher === null || names.has(name)) return;
  names.add(name);
  const channel = pusher.subscribe(name);
  channel.bind("pusher:subscription_error", ({ error, status }) => { log(`${name}: the subscription is refused${status ? ` (${status})` : ""}`, error, "failed"); drop(name); });
  $("debug-channel").value = "";
  if (!$("debug-to").value) $("debug-to").value = name;
  chips();
});

function drop(name) {
  names.delete(name);
  pusher?.unsubscribe(name);
  chips();
}

function chips() {
  $("debug-channels").replaceChildren(...[...names].map((name) => element("li", {}, name, element("button", { type: "button", "aria-label": `Unsubscribe ${name}`, onclick: () => { log(`unsubscribed ${name}`); drop(name); } }, "×"))));
}

// --- sending --------------------------------------------------------------------------------------------------------

/** Name the app that is connected as the sender; its secret is another app's where another one was named before. */
function sender() {
  const { id = Object.keys(relay.status?.hub.apps ?? {})[0] ?? "", key = relay.status?.app_key ?? "" } = app;
  if ($("debug-app-id").value === id && $("debug-app-key").value === key) return;
  $("debug-app-id").value = id;
  $("debug-app-key").value = key;
  $("debug-secret").value = "";
}

$("debug-as").addEventListener("change", () => {
  const server = $("debug-as").value === "server";
  document.querySelector(".server-only").hidden = !server;
  sender();
  $("debug-event").value = $("debug-event").value.replace(/^(client-)?/, server ? "" : "client-");
});

$("debug-send").addEventListener("submit", async (event) => {
  event.preventDefault();
  setText($("debug-error"), "");
  const channel = $("debug-to").value.trim(), name = $("debug-event").value.trim(), text = $("debug-data").value;
  try {
    if ($("debug-as").value === "server") {
      await sendAsServer({ id: $("debug-app-id").value.trim(), key: $("debug-app-key").value.trim(), secret: $("debug-secret").value }, channel, name, text);
      log(`${name} sent to ${channel} as the app's server`, text);
      return;
    }
    if (!name.startsWith("client-")) throw new Error("The name of a client's event begins with client-.");
    if (!/^(private|presence)-/.test(channel)) throw new Error("Clients send on private and presence channels only.");
    const joined = pusher?.channel(channel);
    if (!joined?.subscribed) throw new Error(`Subscribe to ${channel} first.`);
    let data = text;
    try { data = JSON.parse(text); } catch { /* data may be any text */ }
    if (!joined.trigger(name, data)) throw new Error("It was not sent: there is no connection.");
    log(`${name} sent on ${channel} as a client`, data);
  } catch (error) { setText($("debug-error"), error.message); }
});
