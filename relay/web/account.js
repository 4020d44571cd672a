// Accounts: money, positions, orders and fills of every account that the API key may read, in one view.
// Sums are exact, by currency, and say how many accounts they have.

import { $, Rows, element, setText, span, sum, timeOf } from "./dom.js";
import { ask, channelsOf, joined, now, on, relay, since, subscribe } from "./relay.js";
import { amend, cancel, closePosition, mayTrade, openTicket } from "./ticket.js";

const FILLS = 200, NOTICES = 60, OVER = ["FILLED", "CANCELLED", "REJECTED", "EXPIRED"];
const tables = {
  accounts: new Rows($("accounts"), ["", "", "n wide", "n", "n wide", "n wide", "n", "n wide", "", "n dim wide"], { empty: "Waiting for the state of the accounts …" }),
  positions: new Rows($("positions"), ["dim", "", "", "n", "n wide", "n wide", "n", ""], { empty: "No open position." }),
  orders: new Rows($("orders"), ["dim wide", "dim", "", "", "wide", "n", "n", "", ""], { empty: "No open order." }),
  fills: new Rows($("fills"), ["dim", "dim", "", "", "n", "n", "n wide"], { empty: "No fill since this page was opened." }),
};
const totals = new Rows($("totals"), ["", "", "n wide", "n", "n wide", "n wide", "n", "n wide", "", "wide"]);
$("totals").replaceChildren();
$("notices").dataset.empty = "No message and no reply since this page was opened.";
const state = { accounts: new Map(), positions: new Map(), orders: new Map(), fills: new Map() }; // key -> {provider, account, ...}
const stale = new Map();    // "provider account" -> reason
const channels = new Map(); // channel -> {provider, account}
const watched = [];         // {provider, account}
let only = "", dirty = false;

const of = (provider, account) => `${provider} ${account}`;
const change = () => { dirty = true; };

on("started", async () => {
  if (!relay.key) return explain("The accounts are shown to holders of an API key.", true);
  try {
    const { data } = await ask("api/v2/ws/streams");
    // All kinds of an account's events come on one channel, and not every provider tells its money.
    const found = new Map();
    for (const { id, provider, kind, filters, example } of data.streams) {
      const named = filters.find(({ name }) => name === "account");
      for (const account of named ? named.choices ?? (example?.account ? [example.account] : []) : []) {
        const known = found.get(of(provider, account));
        found.set(of(provider, account), { provider, account, stream: known?.stream ?? id, hasMoney: known?.hasMoney || kind === "account" });
      }
    }
    const wanted = [...found.values()];
    if (wanted.length === 0) return explain("This API key may read no account, or the relay has none. An operator grants it in [api_keys.NAME] accounts = [\"PROVIDER.ACCOUNT\"], or trade = [...] to place orders, too.");
    const names = await channelsOf(wanted.map(({ stream, account }) => ({ stream, filter: { account } })));
    wanted.forEach(({ provider, account, hasMoney }, n) => watchAccount(names[n], provider, account, hasMoney));
    $("account-filter").append(...watched.map(({ provider, account }) => element("option", { value: of(provider, account) }, `${provider} / ${account}`)));
    await Promise.all([...channels.keys()].map(joined)); // the fills of an order that is placed before would be missed
    await openTicket();
    $("fills-earlier").hidden = !watched.some(({ provider, account }) => mayTrade(provider, account, "trade_history"));
  } catch (error) { explain(`The accounts cannot be shown: ${error.message}.`); }
});

function explain(text, signIn = false) {
  $("account-parts").hidden = true;
  $("no-accounts").hidden = false;
  $("no-accounts").replaceChildren(text, ...(signIn ? [" ", element("button", { type: "button", onclick: () => { $("sign-in").hidden = false; $("key").focus(); } }, "Sign in")] : []));
}

function watchAccount(channel, provider, account, hasMoney) {
  channels.set(channel, { provider, account });
  watched.push({ provider, account });
  const ours = (data) => ({ provider, account: typeof data.account === "string" ? data.account : account });
  const whose = of(provider, account);
  state.accounts.set(whose, { provider, account, about: {}, at: null, hasMoney });
  const put = (table, data, key, about) => { state[table].set(key, { ...ours(data), about, at: data.timestamp ?? data.received_at, data }); change(); };
  subscribe(channel, {
    account: (data) => {
      const key = of(provider, data.account.id), earlier = state.accounts.get(key)?.about ?? {};
      state.accounts.set(key, { provider, account: data.account.id, about: { ...earlier, ...data.account }, at: data.received_at, hasMoney: true });
      if (["MARGIN_CALL", "MARGIN_WARNING", "MARGIN_CALL_ENDED"].includes(data.event)) notice(data, `${data.event} ${data.account.id}`, "FAILED");
      change();
    },
    position: (data) => {
      const key = `${of(provider, ours(data).account)} ${data.position.id}`;
      if (data.event === "POSITION_CLOSED") { state.positions.delete(key); change(); }
      else put("positions", data, key, { ...state.positions.get(key)?.about, ...data.position });
    },
    order: (data) => {
      const key = `${of(provider, ours(data).account)} ${data.order.id}`;
      put("orders", data, key, { ...state.orders.get(key)?.about, ...data.order, vanished: data.vanished });
      if (data.event === "ORDER_REJECTED") notice(data, `order ${data.order.id} ${data.order.symbol ?? ""} was rejected`, "FAILED");
    },
    trade: (data) => keepFill(ours(data), data.trade, data.timestamp ?? data.received_at),
    reply: (data) => notice(data, `reply ${data.outcome} ${data.command_id}${data.error ? `: ${data.error.message ?? data.error.code}` : ""}`, { accepted: "yes", rejected: "no", unknown: "odd" }[data.outcome]),
    notification: (data) => notice(data, [data.notification.title, data.notification.message].filter(Boolean).join(": ")),
    alert: (data) => notice(data, `alert ${data.alert.symbol} ${data.alert.condition} ${data.alert.status}`),
    error: (data) => notice(data, `${data.code}: ${data.message}`, "FAILED"),
    gap: (data) => notice(data, `events are missing here: ${data.reason}`, "odd"),
    staleness: ({ event, reason }) => { if (event === "STALE") stale.set(whose, reason ?? "no data"); else stale.delete(whose); change(); },
    "pusher:subscription_error": ({ error }) => { stale.set(whose, error ?? "the relay refuses the subscription"); change(); },
  });
}

/** A broker's numbers of fills are of an order or a symbol; a fill that is told twice is one. */
function keepFill({ provider, account }, trade, at) {
  state.fills.set([of(provider, account), trade.symbol, trade.order_id, trade.id, trade.side].join(" "), { provider, account, about: trade, at });
  if (state.fills.size > FILLS) state.fills.delete(newestFirst(state.fills).at(-1)[0]);
  change();
}

/** Of two of one moment, what came later is first; a fill without a time is last. */
const newestFirst = (fills) => [...fills].reverse().sort(([, a], [, b]) => (Date.parse(b.at) || 0) - (Date.parse(a.at) || 0));

/** Ask the brokers for the fills of the last 24 hours; one that does not take times is asked for all it lists. */
$("fills-earlier").addEventListener("click", async () => {
  $("fills-earlier").disabled = true;
  const at = now(), time = (ms) => new Date(at + ms).toISOString(), times = { since: time(-86_400_000), until: time(60_000) }; // clocks differ
  const list = watched.filter((each) => mayTrade(each.provider, each.account, "trade_history") && (!only || only === of(each.provider, each.account)));
  await Promise.all(list.map(async ({ provider, account }) => {
    const history = async (more) => (await ask("api/v2/commands", { method: "POST", body: { provider, account, command: "trade_history", ...more } })).data;
    try {
      let data = await history(times);
      if (data.error?.code === "invalid_command") data = await history({});
      if (data.outcome !== "accepted" || !data.result?.trades) throw new Error(data.error?.message ?? "the broker's answer has no list of fills");
      for (const trade of data.result.trades) keepFill({ provider, account }, trade, trade.timestamp ?? null);
    } catch (error) { notice({ provider, account, received_at: new Date().toISOString() }, `earlier fills: ${error.message}`, "odd"); }
  }));
  $("fills-earlier").disabled = false;
});

// What a relay that was restarted does not tell again is not so any more.
on("resume-failed", (channel) => {
  const gone = channels.get(channel);
  if (!gone) return;
  for (const table of ["positions", "orders"]) for (const [key, each] of state[table]) if (each.provider === gone.provider && each.account === gone.account) state[table].delete(key);
  change();
});

function notice(data, text, mark = "") {
  $("notices").prepend(element("li", {}, element("time", { title: data.received_at }, timeOf(data.received_at)), element("span", { "data-state": mark }, `${data.provider} ${typeof data.account === "string" ? data.account : ""} ${text}`)));
  while ($("notices").children.length > NOTICES) $("notices").lastChild.remove();
}

// --- drawing --------------------------------------------------------------------------------------------------------

const money = (value) => ({ text: value ?? "–", className: value === undefined ? "dim" : Number(value) < 0 ? "down" : Number(value) > 0 ? "up" : "" });
/** Some brokers tell a position's profit only when the position changes. */
const profit = (value, at) => (value !== undefined && since(at) > 10 ? { text: value, className: "dim", title: `as it was ${span(since(at))} ago` } : money(value));
const plain = (value) => value ?? { text: "–", className: "dim" };
const sideOf = (side) => ({ text: side ?? "", className: ["BUY", "LONG"].includes(side) ? "up" : "down" });
const button = (text, about, act) => element("button", { type: "button", "aria-label": about, onclick: act }, text);
const made = new Map(); // buttons live as long as their row, so that the focus stays
function buttons(key, make) {
  if (!made.has(key)) made.set(key, element("span", {}, ...make()));
  return { node: made.get(key) };
}

const shown = (table) => [...state[table]].filter(([, each]) => !only || of(each.provider, each.account) === only);
function show(table, entries) {
  tables[table].show(entries);
  for (const [key] of entries) {
    const row = tables[table].get(key), each = state[table].get(key), why = stale.get(of(each.provider, each.account));
    row.classList.toggle("stale", why !== undefined);
    row.title = why ?? "";
  }
}

function draw() {
  show("accounts", shown("accounts").map(([key, { provider, account, about, at, hasMoney }]) => [key, [
    provider, { text: about.margin_call ? `${account} · margin call` : account, className: about.margin_call ? "down" : "" }, plain(about.balance), plain(about.equity), plain(about.margin_used), plain(about.margin_available),
    money(about.unrealized_pnl), money(about.realized_pnl), about.currency ?? "", stale.has(key) ? { text: "stale", className: "warn" } : at ? span(since(at)) : hasMoney ? "waiting" : { text: "not sent", title: "This provider sends no balance." },
  ]]));
  drawTotals(shown("accounts").map(([, each]) => each.about));
  show("positions", shown("positions").map(([key, { provider, account, about, at }]) => [key, [
    `${provider} / ${account}`, about.symbol, sideOf(about.side), withUnit(about.quantity, about), plain(about.average_entry_price), plain(about.current_price), profit(about.unrealized_pnl, at),
    mayTrade(provider, account, "close_position") ? buttons(`position ${key}`, () => [button("Close", `Close ${about.symbol} at ${provider}`, () => closePosition(provider, account, state.positions.get(key).about))]) : "",
  ]]));
  const open = $("orders-open").checked;
  const orders = shown("orders").filter(([, { about }]) => !open || !(OVER.includes(about.status) || about.vanished)).sort(([, a], [, b]) => (a.at < b.at ? 1 : -1)).slice(0, 200);
  tables.orders.say(open ? "No open order." : "No order.");
  show("orders", orders.map(([key, { provider, account, about, at }]) => [key, [
    { text: timeOf(at, 0), title: at }, `${provider} / ${account}`, about.symbol, sideOf(about.side), (about.order_type ?? "").toLowerCase().replace("_", " "),
    withUnit(about.quantity === undefined ? about.filled_quantity : `${about.filled_quantity ?? "–"} / ${about.quantity}`, about), plain(about.average_fill_price ?? about.limit_price ?? about.stop_price),
    { text: about.vanished ? `${about.status} (gone, how is not known)` : about.status, className: about.status === "REJECTED" || about.vanished ? "warn" : "" },
    OVER.includes(about.status) || about.vanished ? "" : buttons(`order ${key}`, () => [
      mayTrade(provider, account, "amend_order") && button("Amend", `Amend order ${about.id}`, () => amend(provider, account, state.orders.get(key).about)),
      mayTrade(provider, account, "cancel_order") && button("Cancel", `Cancel order ${about.id}`, () => cancel(provider, account, state.orders.get(key).about)),
    ].filter(Boolean)),
  ]]));
  show("fills", newestFirst(shown("fills")).map(([key, { provider, account, about, at }]) => [key, [
    { text: at ? timeOf(at) : "–", title: at ?? "" }, `${provider} / ${account}`, about.symbol, sideOf(about.side), withUnit(about.quantity, about), about.price, about.commission === undefined ? "" : `${about.commission} ${about.commission_currency ?? ""}`,
  ]]));
  for (const key of made.keys()) if (!state.positions.has(key.slice(9)) && !state.orders.has(key.slice(6))) made.delete(key);
}

const withUnit = (quantity, { quantity_unit: unit }) => ({ text: unit ? `${quantity}${/^[0-9]/.test(unit) ? " ×" : ""} ${unit}` : quantity, title: unit ? `in ${unit}` : "in the provider's own unit" });

/** A row per currency with more than one account. A figure that some accounts do not say is marked. */
function drawTotals(accounts) {
  const byCurrency = Map.groupBy ? Map.groupBy(accounts.filter(({ currency }) => currency), ({ currency }) => currency) : grouped(accounts);
  const total = (list, name) => {
    const told = list.map((each) => each[name]).filter((value) => value !== undefined), value = told.length ? sum(told) : null;
    const part = told.length < list.length && value !== null ? `of ${told.length} of ${list.length} accounts; the others do not say it` : "";
    return { text: value === null ? "–" : value + (part ? " *" : ""), title: part, className: /pnl/.test(name) ? money(value ?? undefined).className : "" };
  };
  totals.show([...byCurrency].filter(([, list]) => list.length > 1).map(([currency, list]) => [currency, [
    "All", `${list.length} accounts`, ...["balance", "equity", "margin_used", "margin_available", "unrealized_pnl", "realized_pnl"].map((name) => total(list, name)), currency, "",
  ]]));
  if ($("totals").querySelector(".blank")) $("totals").replaceChildren();
}

function grouped(accounts) {
  const groups = new Map();
  for (const each of accounts) if (each.currency) groups.set(each.currency, [...(groups.get(each.currency) ?? []), each]);
  return groups;
}

$("account-filter").addEventListener("change", () => { only = $("account-filter").value; draw(); });
$("orders-open").addEventListener("change", draw);
setInterval(() => { if (!$("view-account").hidden) { dirty = false; draw(); } }, 1000);
setInterval(() => { if (dirty && !$("view-account").hidden) { dirty = false; draw(); } }, 100);
