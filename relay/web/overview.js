// Overview: what an operator needs first. What cannot be used stands at the top, with its reason.

import { $, Rows, element, rate, setText, span, timeOf, whole } from "./dom.js";
import { now, on, relay, since, subscribe } from "./relay.js";

const LOG = 100, SHOWN = 150, FINE = ["CONNECTED", "IDLE", "ELSEWHERE"];
const sessions = new Rows($("sessions"), ["", "", "", "n", "n", "n wide", "n", "wide long", "n", "n wide", "wide long dim"], { empty: "No provider is configured.", choose: details });
const streams = new Rows($("stream-rows"), ["cut", "n", "n", "n", "n wide", ""], { empty: "No stream is open: nobody has subscribed to one yet." });
const nodes = new Rows($("nodes"), ["", "", "", "n", "n"]);
let before = null, chosen = null;
$("log").dataset.empty = "No session has changed its state since this page was opened.";

export const nameOf = (session) => [session.provider, session.account].filter(Boolean).join(" / ");
/** The channel that carries a stream, as anybody subscribes to it. */
export function channelOf({ provider, kind, symbol, timeframe, account }) {
  const token = (text) => [...new TextEncoder().encode(text)].map((byte) => {
    const character = String.fromCharCode(byte);
    return /[A-Za-z0-9_]/.test(character) ? character : character === "/" ? "-" : `=${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }).join("");
  if (kind === "account") return `private-account.${provider}.${token(account)}`;
  if (kind === "status") return `status.${provider}`;
  return [kind, provider, token(symbol), timeframe].filter(Boolean).join(".");
}

on("started", (status) => {
  for (const provider of new Set(status.sessions.map((session) => session.provider))) watch(provider);
});

function watch(provider) {
  const gap = (ms) => (ms ? `, ${span(ms / 1000)} without it` : "");
  subscribe(`cache-status.${provider}`, {
    connection: (data) => note(data, `${data.event}${data.account ? ` (${data.account})` : ""}${data.reason ? `: ${data.reason}` : ""}${gap(data.gap_ms)}`, data.event),
    staleness: (data) => note(data, `${data.event} ${data.of ?? "all data"} ${data.symbols.join(", ")}${data.reason ? `: ${data.reason}` : ""}`, data.event),
    rate_limit: (data) => note(data, `${data.event}${data.requests_remaining === undefined ? "" : `, ${data.requests_remaining} left`}`, "odd"),
    error: (data) => note(data, `${data.code}: ${data.message}`, "FAILED"),
  });
}

function note(data, message, state) {
  $("log").prepend(element("li", {}, element("time", { dateTime: data.received_at, title: data.received_at }, timeOf(data.received_at)), element("span", { "data-state": state }, `${data.provider} ${message}`)));
  while ($("log").children.length > LOG) $("log").lastChild.remove();
}

on("status", (status) => {
  cards(status);
  problems(status);
  drawSessions(status);
  drawStreams(status);
  drawNodes(status);
  before = { at: now(), status };
});

// --- what is wrong --------------------------------------------------------------------------------------------------

/** Yield what cannot be used ("bad") or is worth a look ("odd"), as [class, text]. */
function* wrong(status) {
  for (const session of status.sessions) {
    if (!FINE.includes(session.state)) yield ["bad", `${nameOf(session)} is ${session.state}${session.reason ? `: ${session.reason}` : ""}${session.attempts ? `, attempt ${session.attempts}` : ""}`];
    for (const trouble of (session.topics?.troubled ?? []).slice(0, 5)) yield ["odd", `${nameOf(session)}: ${typeof trouble === "string" ? trouble : Object.values(trouble).join(", ")}`];
    if (session.unknown) yield ["odd", `${nameOf(session)}: ${whole(session.unknown)} messages or parts were not understood`];
  }
  if (status.store?.available === false) yield ["bad", `the store cannot be written${status.store.reason ? `: ${status.store.reason}` : ""}; commands are refused`];
  const stale = status.hub.streams.filter((stream) => stream.subscribers && !stream.usable);
  for (const stream of stale.slice(0, 8)) yield ["bad", `${channelOf(stream)} is stale, ${whole(stream.subscribers)} subscribers`];
  if (stale.length > 8) yield ["bad", `${stale.length - 8} more stale streams with subscribers`];
  for (const [policy, count] of Object.entries(status.hub.dropped ?? {})) if (count) yield ["odd", `slow subscribers: ${whole(count)} deliveries ${policy}`];
}

function problems(status) {
  const lines = [...wrong(status)];
  const items = lines.map(([className, text]) => element("li", { className }, text));
  if (items.length === 0) items.push(element("li", { className: "fine" }, "Nothing: every session is usable, and no subscriber reads stale data."));
  const text = items.map((item) => item.className + item.textContent).join("\n");
  if ($("problems").dataset.text !== text) { $("problems").dataset.text = text; $("problems").replaceChildren(...items); }
}

function cards(status) {
  const up = status.sessions.filter((session) => FINE.includes(session.state)).length;
  card("ready", status.ready ? "ready" : "not ready", `version ${status.version}`, status.ready ? "yes" : "no", "relay-about");
  card("sessions-up", `${up} of ${status.sessions.length}`, new Set(status.sessions.map(({ provider }) => provider)).size + " providers", up === status.sessions.length ? "" : "no", "sessions-about");
  const stale = status.hub.streams.filter(({ usable }) => !usable).length;
  card("streams-count", whole(status.hub.total_streams ?? status.hub.streams.length), stale ? `${stale} stale` : "none stale", stale ? "odd" : "", "streams-about");
  const apps = Object.keys(status.hub.apps ?? {}).length;
  card("connections", whole(status.hub.connections), `${apps} ${apps === 1 ? "app" : "apps"}`, "", "apps-about");
  card("commands-open", `${whole(status.commands?.open ?? 0)} open`, `${whole(status.commands?.remembered ?? 0)} remembered`, "", "commands-about");
  const store = status.store ?? {};
  card("store", store.available === false ? "not writable" : store.kind ?? "writable", store.waiting ? `${whole(store.waiting)} waiting` : "", store.available === false ? "no" : "", "store-about");
}

function card(id, text, about, state, aboutId) {
  setText($(id), text);
  $(id).dataset.state = state;
  setText($(aboutId), about);
}

// --- tables ---------------------------------------------------------------------------------------------------------

const sessionsByName = (status) => new Map(status.sessions.map((session) => [nameOf(session), session]));
/** Null where there is nothing to compare with; a relay that was restarted counts from 0 again. */
const perSecond = (name, of, earlier) => (before && earlier && of[name] >= earlier[name] ? (of[name] - earlier[name]) / ((now() - before.at) / 1000) : null);

function drawSessions(status) {
  const earlier = before ? sessionsByName(before.status) : new Map();
  sessions.show([...sessionsByName(status)].map(([key, session]) => {
    const budget = Object.entries(session.budget ?? {}).filter(([, left]) => left !== null);
    return [key, [
      session.provider, session.account ?? { text: "–", className: "dim" }, { text: session.state, state: session.state },
      session.up_since ? { text: span(since(session.up_since)), title: `since ${session.up_since}` } : "–",
      session.last_received_at ? { text: span(since(session.last_received_at)), title: session.last_received_at } : "never",
      rate(perSecond("messages", session, earlier.get(key))), whole(session.reconnects),
      budget.map(([of, left]) => `${of} ${Math.floor(left)}`).join(", ") || { text: "no limit", className: "dim" },
      { text: whole(session.unknown), className: session.unknown ? "warn" : "" },
      { text: whole(session.notes?.found_by_audit ?? 0), className: session.notes?.found_by_audit ? "warn" : "" }, session.reason ?? "",
    ]];
  }));
  if (chosen !== null) showDetails(chosen);
}

function details(key) {
  chosen = chosen === key ? null : key;
  sessions.mark(chosen);
  showDetails(chosen);
}

function showDetails(key) {
  const session = key === null ? undefined : sessionsByName(relay.status).get(key);
  $("session-details").hidden = session === undefined;
  if (session === undefined) return;
  const { topics = {}, notes = {}, dropped = {}, samples = [], books = {}, connections = [] } = session;
  const list = (of) => Object.entries(of).filter(([, value]) => typeof value !== "object" && value).map(([name, value]) => `${name} ${value}`).join(", ") || "none";
  const facts = {
    Session: `${nameOf(session)}, adapter ${session.adapter}${session.required ? ", required" : ""}`, Reason: session.reason || "none", "Up since": session.up_since ?? "not up",
    Topics: list(topics), Books: list(books), Events: `${whole(session.received)} received, ${whole(session.published)} published, ${whole(session.deduped)} seen before`,
    "Not published": list(dropped), "Open commands": whole(session.commands), Queued: whole(session.queued), Notes: list(notes),
    ...(connections.length ? { Connections: connections.map(({ state, topics: count }, n) => `${n + 1} ${state}, ${count} topics`).join("; ") } : {}),
    ...((topics.troubled ?? []).length ? { "In trouble": topics.troubled.map((each) => (typeof each === "string" ? each : Object.values(each).join(", "))).join("; ") } : {}),
  };
  const parts = Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  const raw = samples.map(({ raw, why, received_at: at }) => `${at ?? ""}  ${why}\n${raw}`).join("\n\n");
  $("session-details").replaceChildren(element("dl", {}, ...parts), ...(raw ? [element("h2", {}, "Not understood"), element("pre", { tabIndex: 0 }, raw)] : []));
}

function drawStreams(status) {
  const earlier = new Map((before?.status.hub.streams ?? []).map((stream) => [channelOf(stream), stream]));
  const words = $("stream-filter").value.toLowerCase().split(/\s+/).filter(Boolean), stale = $("streams-stale").checked;
  const named = status.hub.streams.map((stream) => [channelOf(stream), stream]);
  const found = named.filter(([channel, stream]) => (!stale || !stream.usable) && words.every((word) => `${channel} ${stream.symbol ?? ""}`.toLowerCase().includes(word)));
  found.sort(([a, first], [b, second]) => first.usable - second.usable || second.subscribers - first.subscribers || (a < b ? -1 : 1));
  streams.say(words.length || stale ? "No stream is like that." : "No stream is open: nobody has subscribed to one yet.");
  streams.show(found.slice(0, SHOWN).map(([channel, stream]) => [channel, [
    { text: channel, title: channel }, rate(perSecond("seq", stream, earlier.get(channel))),
    stream.last_received_at ? { text: span(since(stream.last_received_at)), title: stream.last_received_at } : "never",
    whole(stream.subscribers), whole(stream.seq), stream.usable ? { text: "yes", state: "yes" } : { text: "stale", state: "no" },
  ]]));
  const total = status.hub.total_streams ?? named.length, hidden = found.length - Math.min(found.length, SHOWN);
  setText($("streams-more"), [hidden && `${hidden} more match; filter to see them.`, total > named.length && `The relay has ${whole(total)} streams; the first ${whole(named.length)} are looked through.`].filter(Boolean).join(" "));
}

function drawNodes({ nodes: known }) {
  const list = Array.isArray(known) ? known : Object.entries(known ?? {}).map(([name, node]) => ({ name, ...node }));
  $("nodes-panel").hidden = list.length < 2;
  nodes.show(list.map((node) => {
    const providers = node.providers ?? node.owns ?? [];
    return [node.name, [node.name, { text: node.state ?? "", state: node.state }, Array.isArray(providers) ? providers.join(", ") : Object.keys(providers).join(", "), whole(node.connections), node.seen_at ? span(since(node.seen_at)) : ""]];
  }));
}

for (const id of ["stream-filter", "streams-stale"]) $(id).addEventListener("input", () => { if (relay.status) drawStreams(relay.status); });
