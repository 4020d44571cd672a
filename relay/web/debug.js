// Debug console: a connection of its own to any app of the relay, to see exactly what a client sees.

import { $, element, setText } from "./dom.js";
import { ask, on, pusherOptions, relay } from "./relay.js";
import { sendAsServer } from "./server_event.js";

const LOG = 300;
let pusher = null;
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

async function open() {
  close();
  const named = $("debug-app").value.trim();
  try {
    let { app_key: key } = relay.status, query = "";
    if (relay.key) {
      ({ data: { connection: { appKey: key } } } = await ask("api/v2/ws/session", { method: "POST", body: { subscriptions: [], ...(named ? { app: named } : {}) } }));
      if (named) query = `?app=${encodeURIComponent(named)}`;
    } else if (named) key = named;
    pusher = new Pusher(key, pusherOptions(`api/v2/ws/auth${query}`));
  } catch (error) { log(`cannot connect: ${error.message}`, undefined, "failed"); return; }
  pusher.connection.bind("state_change", ({ current }) => {
    state(current);
    log(`connection ${current}${current === "connected" ? `, socket ${pusher?.connection.socket_id}` : ""}`, undefined, current);
  });
  pusher.connection.bind("error", (error) => log("error", error?.error?.data ?? error?.data ?? error, "failed"));
  pusher.connection.bind("message", ({ event, channel, data, user_id: user }) => {
    if (event !== "pusher:pong") log([event, channel && `on ${channel}`, user && `by ${user}`].filter(Boolean).join(" "), data, event.startsWith("pusher:error") ? "failed" : "");
  });
  state(pusher.connection.state);
  $("debug-close").disabled = false;
}

function close() {
  pusher?.disconnect();
  pusher = null;
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
  if (pusher === null) await open();
  if (pusher === null) return;
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

$("debug-as").addEventListener("change", () => {
  const server = $("debug-as").value === "server";
  document.querySelector(".server-only").hidden = !server;
  if (server && !$("debug-app-id").value) $("debug-app-id").value = Object.keys(relay.status?.hub.apps ?? {})[0] ?? "";
  if (server && !$("debug-app-key").value) $("debug-app-key").value = relay.status?.app_key ?? "";
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
