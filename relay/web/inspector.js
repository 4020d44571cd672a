// Inspector: the events this page receives, as they come, and beside each the frame of the provider that it was made of. An
// event and its frame have the provider and the time of receipt in common.

import { $, Rows, copy, element, setText, timeOf, whole } from "./dom.js";
import { ask, heldChannels, on, relay, subscribe } from "./relay.js";
import { channelOf } from "./overview.js";

const KEPT = 2000, SHOWN = 200, FRAMES = 1000, EVERY = 1000;
const tail = new Rows($("tail"), ["dim", "", "cut", "dim cut wide"], { empty: "No event yet.", choose });
const events = [];          // newest last: {number, channel, event, data, text}
const added = new Map();    // channel -> end
const frames = new Map();   // "provider received_at" -> [frame]
const cursors = new Map();  // "provider account" -> last number
let number = 0, paused = null, chosen = null, dirty = false, passed = 0;

on("message", ({ channel, event, data }) => {
  events.push({ number: number++, channel, event, data, text: null });
  if (events.length > KEPT) events.shift();
  if (paused !== null) passed += 1;
  dirty = true;
});

const textOf = (each) => (each.text ??= `${each.event} ${each.channel} ${JSON.stringify(each.data)}`.toLowerCase());
function matching(list) {
  const words = $("tail-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = words.filter((word) => !word.startsWith("-") || word === "-"), unwanted = words.filter((word) => word.startsWith("-") && word.length > 1).map((word) => word.slice(1));
  const found = [];
  for (let n = list.length - 1; n >= 0 && found.length < SHOWN; n--) {
    const text = words.length ? textOf(list[n]) : "";
    if (wanted.every((word) => text.includes(word)) && !unwanted.some((word) => text.includes(word))) found.push(list[n]);
  }
  return found;
}

function draw() {
  const list = paused ?? events, found = matching(list);
  tail.say(events.length ? "No event is like that." : "No event yet. What this page has subscribed to appears here; add a channel to see more.");
  tail.show(found.map((each) => [String(each.number), [
    { text: timeOf(each.data?.received_at), title: each.data?.received_at ?? "" }, each.event, { text: each.channel, title: each.channel }, brief(each.data),
  ]]));
  setText($("tail-about"), paused ? `paused; ${whole(passed)} more since` : `${whole(heldChannels().length)} channels, the last ${whole(list.length)} events`);
}

function brief(data) {
  if (data === null || typeof data !== "object") return String(data);
  const { type, provider, id, received_at: at, seq, timestamp, ...rest } = data;
  return JSON.stringify(rest[type] && Object.keys(rest).length === 1 ? rest[type] : rest).slice(0, 300);
}

setInterval(() => { if (dirty && paused === null && !$("view-inspector").hidden) { dirty = false; draw(); } }, 250);
$("tail-filter").addEventListener("input", draw);
addEventListener("hashchange", () => { if (location.hash === "#inspector") draw(); });
$("tail-clear").addEventListener("click", () => { events.length = 0; if (paused) paused = []; passed = 0; draw(); });
$("tail-pause").addEventListener("click", () => pause(paused === null));

function pause(is) {
  paused = is ? [...events] : null;
  passed = 0;
  $("tail-pause").setAttribute("aria-pressed", String(is));
  setText($("tail-pause"), is ? "Go on" : "Pause");
  draw();
}

// --- channels -------------------------------------------------------------------------------------------------------

on("status", ({ hub }) => {
  const names = hub.streams.map(channelOf).slice(0, 500), text = names.join();
  if ($("channels").dataset.text === text) return;
  $("channels").dataset.text = text;
  $("channels").replaceChildren(...names.map((value) => element("option", { value })));
});

$("tail-add").addEventListener("click", add);
$("tail-channel").addEventListener("keydown", (event) => { if (event.key === "Enter") add(); });

function add() {
  const name = $("tail-channel").value.trim();
  if (!name || added.has(name)) return;
  setText($("tail-error"), "");
  added.set(name, subscribe(name, { "pusher:subscription_error": ({ error, status }) => { setText($("tail-error"), `${name}: ${error ?? `refused with ${status}`}`); drop(name); } }));
  $("tail-channel").value = "";
  chips();
}

function drop(name) {
  added.get(name)?.();
  added.delete(name);
  chips();
}

function chips() {
  $("tail-channels").replaceChildren(...[...added.keys()].map((name) => element("li", {}, name, element("button", { type: "button", "aria-label": `Remove ${name}`, onclick: () => drop(name) }, "×"))));
  draw();
}

// --- an event and its frame -----------------------------------------------------------------------------------------

function choose(key) {
  chosen = (paused ?? events).find((each) => String(each.number) === key) ?? null;
  if (chosen && paused === null) pause(true);
  tail.mark(key);
  showChosen();
}

const framesOf = ({ data }) => frames.get(`${data?.provider} ${data?.received_at}`) ?? [];
const pretty = (text) => { try { JSON.parse(text); } catch { return text; } return text.length > 4000 ? text : indented(text); };

/** JSON with line breaks, every digit as it came: it is not read as numbers. */
function indented(text) {
  let depth = 0, out = "", quoted = false;
  for (let n = 0; n < text.length; n++) {
    const c = text[n];
    if (quoted) { out += c; if (c === "\\") out += text[++n]; else if (c === '"') quoted = false; continue; }
    if (c === '"') { quoted = true; out += c; }
    else if (c === "{" || c === "[") { const close = text.slice(n + 1).match(/^\s*[}\]]/); if (close) { out += c + close[0].trim(); n += close[0].length; } else out += `${c}\n${" ".repeat(2 * ++depth)}`; }
    else if (c === "}" || c === "]") out += `\n${" ".repeat(2 * --depth)}${c}`;
    else if (c === ",") out += `,\n${" ".repeat(2 * depth)}`;
    else if (c === ":") out += ": ";
    else if (!/\s/.test(c)) out += c;
  }
  return out;
}

function showChosen() {
  const has = chosen !== null, found = has ? framesOf(chosen) : [];
  $("copy-event").disabled = !has;
  $("copy-fixture").disabled = found.length === 0;
  setText($("event"), has ? JSON.stringify(chosen.data, null, 2) : "Choose an event above.");
  setText($("frame"), found.length ? found.map((frame) => `${frame.direction === "http" ? `${frame.method} ${frame.url}, status ${frame.status}\n` : ""}${pretty(frame.data)}${frame.cut ? `\n… and ${whole(frame.cut)} more characters` : ""}`).join("\n\n") : noFrame());
}

function noFrame() {
  if (!$("raw").checked) return "Tick “raw frames” to see what the provider sent.";
  if (!chosen) return "Choose an event above.";
  return "No frame is known for this event: it came before “raw frames” was ticked, is too old, or the relay made it itself (state, staleness, replies).";
}

$("copy-event").addEventListener("click", () => copy(JSON.stringify(chosen.data), $("copy-event")));
// The frame as a line of a recording, which `tickrelay try` reads. What is cut would be a wrong fixture.
$("copy-fixture").addEventListener("click", () => {
  const found = framesOf(chosen);
  if (found.some(({ cut }) => cut)) { setText($("tail-error"), "The frame is too long to be copied: record the session instead (tickrelay record)."); return; }
  copy(found.map(({ t, direction, data, url, method, status }) => JSON.stringify(direction === "http" ? { t, dir: direction, url, method, status, data } : { t, dir: direction, data })).join("\n") + "\n", $("copy-fixture"));
});

// --- raw frames -----------------------------------------------------------------------------------------------------

let looks = 0; // of the ticks: what an earlier one has asked for and not yet heard is not wanted any more

$("raw").addEventListener("change", () => {
  looks += 1;
  setText($("tail-error"), "");
  cursors.clear();
  frames.clear();
  showChosen();
  if ($("raw").checked) poll(looks);
});

async function poll(look) {
  const sessions = new Map((relay.status?.sessions ?? []).map(({ provider, account }) => [`${provider} ${account ?? ""}`, { provider, account }]));
  const refused = [];
  for (const [key, { provider, account }] of sessions) {
    if ($("view-inspector").hidden) break;
    if (cursors.get(key) === null) continue;
    try {
      const query = new URLSearchParams({ provider, ...(account ? { account } : {}), ...(cursors.has(key) ? { after: cursors.get(key) } : {}) });
      const { data } = await ask(`api/v2/frames?${query}`);
      if (look !== looks) return;
      cursors.set(key, data.last);
      for (const frame of data.frames) keep(`${provider} ${frame.received_at}`, frame);
    } catch (error) {
      if (look !== looks) return;
      if (error.status === 404 && !error.answer?.error?.details?.field) { $("raw").checked = false; looks += 1; setText($("tail-error"), "This relay shows no raw frames."); return; }
      if (error.status === 403 || error.status === 401) { cursors.set(key, null); refused.push(error.message); }
    }
  }
  if (refused.length === sessions.size && sessions.size) { $("raw").checked = false; looks += 1; setText($("tail-error"), refused[0]); showChosen(); return; }
  if (chosen && framesOf(chosen).length && $("copy-fixture").disabled) showChosen();
  setTimeout(() => { if (look === looks) poll(look); }, EVERY);
}

function keep(key, frame) {
  const there = frames.get(key);
  if (there) there.push(frame); else frames.set(key, [frame]);
  if (frames.size > FRAMES * 3) for (const old of [...frames.keys()].slice(0, FRAMES)) frames.delete(old);
}
