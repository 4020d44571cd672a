// Market: a symbol at all its providers side by side, with chart, book and trades. Prices stay the text they came as;
// numbers are made only to draw and to compare.

import { $, Rows, element, minus, setText, span, timeOf } from "./dom.js";
import { chart, drawChart } from "./chart.js";
import { ask, on, relay, since, subscribe } from "./relay.js";

const POINTS = 900, TAPE = 40, LEVELS = 14, WATCHED = 60, MINE = "tickrelay-symbols";
const symbols = new Map();   // symbol -> {offers: Map(provider -> offer)}
const watch = new Rows($("watch"), ["", "n", "n", "n dim"], { empty: "No symbol yet: search for one.", choose: chooseSymbol });
const table = new Rows($("providers"), ["", "n dim wide", "n price", "n price", "n dim wide", "n dim", "n dim wide", "n dim"], { choose: (provider) => chooseOffer(provider), empty: "Choose a symbol." });
const tape = new Rows($("tape"), ["dim", "dim", "n", "n"], { empty: "No trade yet." });
const book = { bids: new Map(), asks: new Map(), known: false };
let symbol = null, offer = null, frame = "quotes", held = [], tradeNumber = 0, timeframes = {};

on("started", async (status) => {
  for (const { provider, symbol: name, channel, kinds } of status.quotes ?? []) {
    if (symbols.size >= WATCHED && !symbols.has(name)) continue;
    add(name, provider, channel, kinds);
  }
  for (const { symbol: name, provider, channel, kinds } of mine()) add(name, provider, channel, kinds);
  drawWatch();
  const first = [...symbols].sort(([, a], [, b]) => kindsOf(b).size - kindsOf(a).size)[0];
  if (first) chooseSymbol(first[0]);
  if (!relay.key) return;
  const { data } = await ask("api/v2/ws/streams").catch(() => ({ data: { streams: [] } }));
  for (const { provider, kind, filters } of data.streams) {
    if (kind === "candle") timeframes[provider] = filters.find(({ name }) => name === "timeframe")?.choices ?? [];
  }
  drawTimeframes();
});

const kindsOf = ({ offers }) => new Set([...offers.values()].flatMap(({ kinds }) => kinds));
const mine = () => { try { return JSON.parse(localStorage.getItem(MINE) ?? "[]"); } catch { return []; } };

function add(name, provider, channel, kinds) {
  const entry = symbols.get(name) ?? { offers: new Map() };
  symbols.set(name, entry);
  if (entry.offers.has(provider)) return entry.offers.get(provider);
  const made = { symbol: name, provider, channel, kinds, quote: {}, at: null, series: [[], [], []], stale: null, error: "" };
  entry.offers.set(provider, made);
  subscribe(`cache-${channel}`, {
    quote: (data) => onQuote(made, data),
    staleness: ({ event, reason, stale_since: from }) => { made.stale = event === "STALE" ? [reason ?? "no data", from && `since ${from}`].filter(Boolean).join(", ") : null; breakLine(made); made.dirty = true; },
    "pusher:subscription_error": ({ error }) => { made.error = error ?? "the relay refuses the subscription"; made.dirty = true; },
  });
  return made;
}

function onQuote(of, { quote, received_at: at }) {
  of.before = of.quote;
  of.quote = quote;
  of.at = at;
  of.dirty = true;
  const [times, bids, asks] = of.series;
  times.push(Date.parse(at) / 1000);
  bids.push(quote.bid === undefined ? null : Number(quote.bid));
  asks.push(quote.ask === undefined ? null : Number(quote.ask));
  if (times.length > POINTS) for (const column of of.series) column.shift();
}

/** No line over a time without data. */
function breakLine(of) {
  const [times, bids, asks] = of.series;
  if (times.length === 0 || (bids.at(-1) === null && asks.at(-1) === null)) return;
  times.push(times.at(-1) + 0.001); bids.push(null); asks.push(null);
}
on("known", (is) => { if (!is) for (const { offers } of symbols.values()) for (const each of offers.values()) breakLine(each); });

// --- tables ---------------------------------------------------------------------------------------------------------

/** The best price of a side among providers whose data can be relied on. */
function best(offers, side) {
  let found = null;
  for (const { quote, stale } of offers.values()) {
    const price = quote[side];
    if (stale === null && price !== undefined && (found === null || (side === "bid" ? Number(price) > Number(found) : Number(price) < Number(found)))) found = price;
  }
  return found;
}

function drawWatch() {
  for (const [name, { offers }] of symbols) {
    const usable = [...offers.values()].filter(({ stale, at }) => stale === null && at);
    const row = watch.put(name, [{ text: name, title: name }, best(offers, "bid") ?? "–", best(offers, "ask") ?? "–", offers.size === 1 ? [...offers.keys()][0] : `${offers.size} providers`]);
    row.classList.toggle("stale", usable.length === 0);
  }
}

function drawProviders() {
  const { offers } = symbols.get(symbol), bid = best(offers, "bid"), ask = best(offers, "ask");
  table.show([...offers].map(([provider, each]) => {
    const { quote, before = {}, stale, error } = each;
    const price = (side, top) => ({ text: quote[side] ?? "–", className: [moved(quote[side], before[side]), offers.size > 1 && quote[side] !== undefined && quote[side] === top && "best"].filter(Boolean).join(" "), title: offers.size > 1 && quote[side] === top ? "the best of all providers" : "" });
    const spread = quote.bid !== undefined && quote.ask !== undefined ? minus(quote.ask, quote.bid) : null;
    const age = error ? { text: "refused", className: "down", title: error } : stale !== null ? { text: "stale", className: "warn", title: stale } : each.at ? span(since(each.at)) : "waiting";
    return [provider, [provider, quote.bid_size ?? "", price("bid", bid), price("ask", ask), quote.ask_size ?? "", spread ?? "", quote.last ?? "", age]];
  }));
  for (const [provider, each] of offers) {
    const row = table.get(provider);
    row.classList.toggle("stale", each.stale !== null);
    row.title = each.stale ?? each.error;
  }
  for (const node of [document.querySelector(".chart"), document.querySelector(".ladder")]) node.classList.toggle("stale", Boolean(offer?.stale));
}

const moved = (value, earlier) => (value === undefined || earlier === undefined || value === earlier ? "" : Number(value) > Number(earlier) ? "up" : "down");

// --- the chosen symbol ----------------------------------------------------------------------------------------------

const letGo = () => { for (const end of held.splice(0)) end(); };
const channel = (of, kind) => of.channel.replace(/^quote/, kind);

export function chooseSymbol(name) {
  if (!symbols.has(name)) return;
  symbol = name;
  watch.mark(name);
  setText($("symbol"), name);
  table.clear();
  drawProviders();
  const offers = [...symbols.get(name).offers.values()];
  chooseOffer([...offers].sort((a, b) => b.kinds.length - a.kinds.length)[0].provider);
}

function chooseOffer(provider) {
  letGo();
  offer = symbols.get(symbol).offers.get(provider);
  table.mark(provider);
  book.bids.clear(); book.asks.clear(); book.known = false;
  tape.clear();
  setText($("depth-title"), `Depth · ${provider}`);
  const trading = [...symbols.get(symbol).offers.values()].filter(({ kinds }) => kinds.includes("public_trade"));
  tape.say(trading.length ? "No trade yet." : `No provider of ${symbol} streams trades.`);
  if (offer.kinds.includes("depth")) held.push(subscribe(channel(offer, "depth"), { depth: onDepth, gap: () => { book.known = false; } }));
  for (const each of trading) held.push(subscribe(channel(each, "public_trade"), { public_trade: onTrade }));
  if (frame !== "quotes" && !framesOf(offer).includes(frame)) frame = "quotes";
  drawTimeframes();
  showChart();
  drawLadder();
}

function onTrade({ public_trade: trade, provider, received_at: at }) {
  const time = trade.timestamp ?? at;
  tape.put(String(tradeNumber++), [{ text: timeOf(time), title: time }, provider, { text: trade.price, className: trade.side === "BUY" ? "up" : trade.side === "SELL" ? "down" : "", title: trade.side ?? "" }, trade.quantity], { first: true });
  tape.remove(String(tradeNumber - 1 - TAPE));
}

function onDepth({ depth }) {
  if (depth.snapshot) book.known = true;
  for (const side of ["bids", "asks"]) {
    if (depth.snapshot) book[side].clear();
    for (const [price, size] of depth[side]) if (Number(size) === 0) book[side].delete(price); else book[side].set(price, size);
  }
  book.dirty = true;
}

function drawLadder() {
  const side = (levels, order) => [...levels].sort(([a], [b]) => order * (Number(a) - Number(b))).slice(0, LEVELS);
  const bids = side(book.bids, -1), asks = side(book.asks, 1), most = Math.max(...[...bids, ...asks].map(([, size]) => Number(size)), 0);
  const draw = (body, levels) => {
    while (body.rows.length > levels.length) body.deleteRow(-1);
    levels.forEach(([price, size], index) => {
      const row = body.rows[index] ?? body.appendChild(element("tr", {}, element("td"), element("td", { className: "n" })));
      setText(row.cells[0], price); setText(row.cells[1], size);
      row.cells[1].style.setProperty("--share", `${((100 * Number(size)) / most).toFixed(1)}%`);
    });
  };
  draw($("asks"), [...asks].reverse());
  draw($("bids"), bids);
  const spread = bids.length && asks.length ? `spread ${minus(asks[0][0], bids[0][0])}` : null;
  const why = !offer ? "Choose a symbol." : !offer.kinds.includes("depth") ? `${offer.provider} streams no depth.` : book.known ? "The book is empty." : "Waiting for the first snapshot …";
  $("spread").replaceChildren(element("tr", {}, element("td", { colSpan: 2 }, spread ?? why)));
}

// --- chart ----------------------------------------------------------------------------------------------------------

const framesOf = (of) => (of?.kinds.includes("candle") ? timeframes[of.provider] ?? ["1m"] : []);

function drawTimeframes() {
  const button = (name, label) => element("button", { type: "button", "aria-pressed": String(frame === name), onclick: () => { frame = name; drawTimeframes(); showChart(); } }, label);
  $("timeframes").replaceChildren(button("quotes", "bid / ask"), ...framesOf(offer).map((name) => button(name, name)));
}

let bars = new Map(), endCandles = null;

function showChart() {
  endCandles?.();
  endCandles = null;
  bars = new Map();
  setText($("chart-title"), `${symbol} · ${offer.provider}`);
  chart(frame === "quotes" ? "lines" : "candles");
  if (frame === "quotes") { offer.dirty = true; setText($("plot-note"), ""); return; }
  const wanted = frame;
  setText($("plot-note"), "Waiting for the first candle …");
  endCandles = subscribe(`${channel(offer, "candle")}.${wanted}`, { candle: ({ bar }) => { bars.set(bar.timestamp, bar); bars.dirty = true; } });
}

/** Called with every picture the browser draws; draws what has changed. */
function draw() {
  if (!$("view-market").hidden && offer !== null) {
    if (book.dirty) { book.dirty = false; drawLadder(); }
    const changed = [...symbols.values()].some(({ offers }) => [...offers.values()].some((each) => each.dirty));
    if (changed) {
      if (offer.dirty && frame === "quotes") drawChart(offer.series, offer.quote);
      drawWatch(); drawProviders();
      for (const { offers } of symbols.values()) for (const each of offers.values()) each.dirty = false;
    }
    if (bars.dirty) {
      bars.dirty = false;
      const list = [...bars.values()].sort((a, b) => (a.timestamp < b.timestamp ? -1 : 1)).slice(-300), column = (name) => list.map((bar) => Number(bar[name]));
      drawChart([list.map((bar) => Date.parse(bar.timestamp) / 1000), column("open"), column("high"), column("low"), column("close")], { bid: list.at(-1)?.close });
      setText($("plot-note"), list.length < 20 ? `${list.length} of the candles are known: the relay keeps those that were sent while somebody had subscribed.` : "");
    }
  }
  setTimeout(() => requestAnimationFrame(draw), 60);
}
requestAnimationFrame(draw);
setInterval(() => { if (symbol !== null && !$("view-market").hidden) { drawProviders(); drawWatch(); } }, 1000);
document.addEventListener("theme", () => { if (offer) showChart(); });

// --- search ---------------------------------------------------------------------------------------------------------

let asked = 0, results = [], at = -1, timer = 0;
const search = $("symbol-search"), found = $("found");

// Results belong to the text they were asked for. Enter before they have come takes the first of them when they come.
let pending = false, takesFirst = false;
search.addEventListener("input", () => { asked += 1; pending = true; takesFirst = false; results = []; clearTimeout(timer); timer = setTimeout(look, 150); });
search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); select(at + (event.key === "ArrowDown" ? 1 : -1)); }
  if (event.key === "Enter" && pending) takesFirst = true;
  else if (event.key === "Enter" && results.length) take(results[Math.max(at, 0)]);
  if (event.key === "Escape") close();
});
search.addEventListener("blur", () => setTimeout(close, 150));

async function look() {
  const query = search.value.trim(), number = ++asked;
  if (!query) { pending = false; return close(); }
  try {
    const { data } = relay.key ? await ask(`api/v2/symbols?limit=40&kind=quote&q=${encodeURIComponent(query)}`) : { data: { symbols: known(query) } };
    if (number !== asked) return;
    pending = false;
    results = group(data.symbols);
    if (takesFirst && results.length) return take(results[0]);
    list(results.length ? results.map(suggestion) : [nothing(`No provider has a symbol like “${query}”.`)]);
  } catch (error) {
    if (number !== asked) return;
    pending = false;
    list([nothing(error.message)]);
  }
}

/** Without an API key: among the symbols that are on the page. */
const known = (query) => [...symbols].flatMap(([name, { offers }]) => (name.toLowerCase().includes(query.toLowerCase()) ? [...offers.values()].map((each) => ({ symbol: name, provider: each.provider, kinds: each.kinds, channels: { quote: each.channel } })) : []));
const nothing = (text) => element("li", { className: "nothing" }, text);

function group(list) {
  const grouped = new Map();
  for (const each of list) grouped.set(each.symbol, [...(grouped.get(each.symbol) ?? []), each]);
  return [...grouped].map(([name, offers]) => ({ name, offers }));
}

function suggestion(each) {
  const called = each.offers.find((one) => one.name)?.name;
  const item = element("li", { role: "option", id: `found-${results.indexOf(each)}` }, each.name, element("small", {}, [called, each.offers.map(({ provider }) => provider).join(", "), each.offers[0].near && "similar"].filter(Boolean).join(" · ")));
  item.onmousedown = (event) => { event.preventDefault(); take(each); };
  return item;
}

function list(items) {
  found.replaceChildren(...items);
  found.hidden = false;
  search.setAttribute("aria-expanded", "true");
  select(results.length ? 0 : -1);
}

function select(index) {
  at = Math.max(-1, Math.min(index, results.length - 1));
  [...found.children].forEach((item, n) => item.setAttribute("aria-selected", String(n === at)));
  if (at >= 0) { found.children[at].scrollIntoView({ block: "nearest" }); search.setAttribute("aria-activedescendant", `found-${at}`); }
}

function close() {
  if (!takesFirst) { asked += 1; pending = false; clearTimeout(timer); } // what comes now opens nothing again
  found.hidden = true;
  search.setAttribute("aria-expanded", "false");
}

function take({ name, offers }) {
  takesFirst = false;
  const kept = mine();
  for (const { provider, channels, kinds } of offers) {
    if (!channels.quote) continue;
    if (!symbols.get(name)?.offers.has(provider)) kept.push({ symbol: name, provider, channel: channels.quote, kinds });
    add(name, provider, channels.quote, kinds);
  }
  localStorage.setItem(MINE, JSON.stringify(kept.slice(-100)));
  search.value = "";
  close();
  drawWatch();
  chooseSymbol(name);
  watch.get(name)?.scrollIntoView({ block: "nearest" });
}
