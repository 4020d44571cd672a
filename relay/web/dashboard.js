// The dashboard: an ordinary client of the relay. This file signs in, chooses the view, and says what is not true any more.
//
//   relay.js      the connection: HTTP, pusher-js, the status        dom.js     elements, tables, ages, exact decimals
//   overview.js   sessions and streams                               market.js  prices, with chart.js
//   account.js    accounts, orders, positions, fills                 ticket.js  what is sent: place, amend, cancel, close
//   inspector.js  events beside the frames they came from            debug.js   any channel of any app, with server_event.js

import { $, setText } from "./dom.js";
import { VERSION, connect, on, relay, signOut } from "./relay.js";
import "./overview.js";
import "./market.js";
import "./account.js";
import "./inspector.js";
import "./debug.js";

const VIEWS = ["overview", "market", "account", "inspector", "debug"];
const DEFAULT = "overview";

// --- views ----------------------------------------------------------------------------------------------------------

function show() {
  const wanted = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : DEFAULT;
  for (const view of VIEWS) $(`view-${view}`).hidden = view !== wanted || relay.status === null;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${wanted} · tickrelay`;
}
addEventListener("hashchange", show);

// --- sign-in --------------------------------------------------------------------------------------------------------

let attempts = 0;

async function start(key) {
  const attempt = ++attempts; // a later one, with another key, may be answered before this one
  setText($("sign-in-error"), "");
  try {
    await connect(key, () => attempt === attempts);
  } catch (error) {
    if (attempt !== attempts) return;
    if (relay.pusher) throw error;
    $("sign-in").hidden = false;
    const wrong = error.status === 401 ? (key ? "This API key is not one of this relay's." : "") : `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
    setText($("sign-in-error"), wrong);
    setText($("link"), error.status === 401 ? "not signed in" : "no relay");
    $("link").dataset.state = error.status === 401 ? "" : "failed";
    if (error.status === 401) { sessionStorage.removeItem("tickrelay-key"); $("key").select(); } else setTimeout(() => { if (attempt === attempts) start(key); }, 3000);
    $("key").focus();
    return;
  }
  if (attempt !== attempts) return;
  if (!$("sign-in").hidden) $("key").blur(); // keys are the page's again
  $("sign-in").hidden = true;
  $("sign-out").hidden = relay.isDemo || !relay.key;
  show();
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  start($("key").value.trim());
});
$("sign-out").addEventListener("click", signOut);

// --- what is not true any more --------------------------------------------------------------------------------------

on("known", (is) => {
  const { state } = relay.pusher.connection;
  setText($("link"), state);
  $("link").dataset.state = state;
  document.body.classList.toggle("away", !is);
  sayAway();
});

function sayAway() {
  $("away").hidden = relay.lost === null;
  if (relay.lost === null) return;
  const seconds = Math.floor((Date.now() - relay.lost) / 1000), why = relay.problem || (relay.closed ? `the relay closed the connection (${relay.closed})` : `the connection is ${relay.pusher.connection.state}`);
  setText($("away"), `Nothing heard from the relay since ${relay.lost.toTimeString().slice(0, 8)} (${seconds} s): ${why}. What is shown is as it was then.`);
}

on("status", ({ version }) => {
  show(); // the views are hidden until there is a first status
  $("other-version").hidden = version === VERSION;
  setText($("other-version"), version === VERSION ? "" : `This page is of tickrelay ${VERSION}, the relay is ${version ? `of ${version}` : "of an unknown version"}: reload the page. Until then some of it may be missing or wrong.`);
});

let before = 0;
setInterval(() => {
  sayAway();
  if (relay.pusher === null) return;
  setText($("rate"), relay.received - before);
  setText($("latency"), relay.latency === null ? "–" : `${Math.max(0, Math.round(relay.latency))} ms`);
  before = relay.received;
}, 1000);

// --- theme and keyboard ---------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
function theme(name) {
  document.documentElement.dataset.theme = name;
  setText($("theme"), name);
  localStorage.setItem("tickrelay-theme", name);
  document.dispatchEvent(new Event("theme"));
}
$("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf($("theme").textContent) + 1) % THEMES.length]));
theme(THEMES.find((name) => name === localStorage.getItem("tickrelay-theme")) ?? "auto");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));

$("keys").addEventListener("click", () => $("help").showModal());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) { if (event.key === "Escape") event.target.blur(); return; }
  const view = VIEWS[Number(event.key) - 1];
  if (view) { location.hash = view; show(); $("main").focus(); } // the next key may come before the event of the new hash
  else if (event.key === "/") { event.preventDefault(); document.querySelector(".view:not([hidden]) [data-search]")?.focus(); }
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "p" && !$("view-inspector").hidden) $("tail-pause").click();
});

show();
start(sessionStorage.getItem("tickrelay-key"));
