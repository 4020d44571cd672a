// The dashboard is an ordinary pusher-js client of the relay: what it shows is what any application gets.
// Prices stay the text they came as; numbers are made only to draw and to compare.

const $ = (id) => document.getElementById(id);
const POINTS = 600, TAPE = 10, LEVELS = 12, LOG = 60, ORDERS = 12;

const quotes = new Map();            // channel -> {row cells, series: [t[], bid[], ask[]]}
const book = { bids: new Map(), asks: new Map() };
const channels = new Set();
let pusher, plot, chosen = null, received = 0, lastReceived = 0, latency = null;

const clock = () => Date.now() / 1000;
const text = (element, value) => { if (element.textContent !== value) element.textContent = value; };
const decimals = (price) => (price ?? "").split(".")[1]?.length ?? 0;
const cell = (row, content = "", className = "") => {
  const td = row.insertCell();
  td.textContent = content;
  td.className = className;
  return td;
};

function subscribe(name, handlers) {
  channels.add(name);
  const channel = pusher.subscribe(name);
  for (const [event, handler] of Object.entries(handlers)) {
    channel.bind(event, (data) => { count(data); handler(data); });
  }
  return channel;
}

function unsubscribe(name) {
  channels.delete(name);
  pusher.unsubscribe(name);
}

function count(data) {
  received += 1;
  const at = Date.parse(data.received_at);
  if (!Number.isNaN(at)) latency = Date.now() - at;
}

// --- quotes ---------------------------------------------------------------------------------------------------------

function watchQuote(channel, symbol, provider, kinds) {
  const row = $("quotes").insertRow();
  row.dataset.channel = channel;
  cell(row, symbol);
  cell(row, provider, "dim");
  const cells = { bid: cell(row, "–", "n"), ask: cell(row, "–", "n"), last: cell(row, "", "n dim"), age: cell(row, "", "n dim") };
  const entry = { row, cells, symbol, provider, kinds, series: [[], [], []], at: null };
  quotes.set(channel, entry);
  row.onclick = () => choose(channel);
  subscribe(channel, { quote: ({ quote }) => onQuote(channel, entry, quote), staleness: (data) => onStaleness(channel, entry, data) });
}

// A price that cannot be relied on stays, greyed, with the reason; the chart draws no line over the time without data.
function onStaleness(channel, entry, { event, reason, stale_since: since }) {
  entry.row.classList.toggle("stale", event === "STALE");
  entry.row.title = event === "STALE" ? [reason ?? "no data", since && `since ${since}`].filter(Boolean).join(", ") : "";
  if (event === "STALE") breakLine(entry);
  if (channel === chosen) markChosen(entry);
}

function breakLine(entry) {
  const [times, bids, asks] = entry.series;
  if (times.length === 0 || (bids.at(-1) === null && asks.at(-1) === null)) return;
  times.push(clock()); bids.push(null); asks.push(null);
  entry.dirty = true;
}

const markChosen = (entry) => document.body.classList.toggle("stale-symbol", entry.row.classList.contains("stale"));

function onQuote(channel, entry, quote) {
  for (const side of ["bid", "ask", "last"]) {
    const td = entry.cells[side], value = quote[side] ?? (side === "last" ? "" : "–");
    if (td.textContent === value) continue;
    if (side !== "last") {
      const direction = Number(value) >= Number(td.textContent) ? "up" : "down";
      td.className = `n ${direction}`;
      void td.offsetWidth;
      td.classList.add("flash");
    }
    td.textContent = value;
  }
  entry.at = clock();
  entry.digits = Math.max(decimals(quote.bid), decimals(quote.ask));
  const [times, bids, asks] = entry.series;
  times.push(entry.at);
  bids.push(quote.bid === undefined ? null : Number(quote.bid));
  asks.push(quote.ask === undefined ? null : Number(quote.ask));
  if (times.length > POINTS) for (const column of entry.series) column.shift();
  if (channel === chosen) entry.dirty = true;
}

const shownKinds = ({ kinds }) => ["depth", "public_trade"].filter((kind) => kinds.includes(kind));

function choose(channel) {
  if (chosen === channel) return;
  const entry = quotes.get(channel);
  if (chosen !== null) {
    quotes.get(chosen).row.classList.remove("chosen");
    for (const kind of shownKinds(quotes.get(chosen))) unsubscribe(chosen.replace(/^cache-quote/, kind));
  }
  chosen = channel;
  entry.row.classList.add("chosen");
  entry.row.scrollIntoView({ block: "nearest" });
  text($("chosen"), `${entry.symbol} · ${entry.provider}`);
  markChosen(entry);
  book.bids.clear(); book.asks.clear(); $("tape").replaceChildren();
  plot.setData(entry.series);
  const handlers = { depth: { depth: onDepth }, public_trade: { public_trade: onTrade } };
  for (const kind of shownKinds(entry)) subscribe(channel.replace(/^cache-quote/, kind), handlers[kind]);
  drawLadder();
}

// --- the chosen symbol ----------------------------------------------------------------------------------------------

function onDepth({ depth }) {
  for (const side of ["bids", "asks"]) {
    if (depth.snapshot) book[side].clear();
    for (const [price, size] of depth[side]) {
      const key = Number(price);
      if (Number(size) === 0) book[side].delete(key); else book[side].set(key, [price, size]);
    }
  }
  book.dirty = true;
}

function drawLadder() {
  const side = (levels, order) => [...levels.entries()].sort((a, b) => order * (a[0] - b[0])).slice(0, LEVELS).map(([, level]) => level);
  const bids = side(book.bids, -1), asks = side(book.asks, 1);
  const most = Math.max(...[...bids, ...asks].map(([, size]) => Number(size)), 0);
  const draw = (body, levels) => {
    while (body.rows.length > levels.length) body.deleteRow(-1);
    levels.forEach(([price, size], index) => {
      const row = body.rows[index] ?? (() => { const made = body.insertRow(); cell(made); cell(made, "", "n"); return made; })();
      text(row.cells[0], price); text(row.cells[1], size);
      row.cells[1].style.setProperty("--share", `${(100 * Number(size) / most).toFixed(1)}%`);
    });
  };
  draw($("asks"), asks.toReversed ? asks.toReversed() : asks.slice().reverse());
  draw($("bids"), bids);
  const gap = bids.length && asks.length ? Number(asks[0][0]) - Number(bids[0][0]) : null;
  $("spread").innerHTML = "";
  cell($("spread").insertRow(), gap === null ? "no depth" : `spread ${gap.toFixed(decimals(asks[0][0]))}`).colSpan = 2;
}

function onTrade({ public_trade: trade }) {
  const row = $("tape").insertRow(0), direction = trade.side === "SELL" ? "down" : "up";
  cell(row, (trade.timestamp ?? "").slice(11, 23), "dim");
  cell(row, trade.price, `n ${trade.side ? direction : ""}`);
  cell(row, trade.quantity, "n");
  if ($("tape").rows.length > TAPE) $("tape").deleteRow(-1);
}

// --- accounts -------------------------------------------------------------------------------------------------------

const rows = new Map();              // table id and key -> row
const accountChannels = new Map();   // channel -> provider

function rowOf(table, key, columns, first = false) {
  const name = `${table} ${key}`;
  if (!rows.has(name)) {
    const row = $(table).insertRow(first ? 0 : -1);
    columns.forEach((className) => cell(row, "", className));
    rows.set(name, row);
  }
  return rows.get(name);
}

const fill = (row, values) => values.forEach((value, index) => text(row.cells[index], value ?? ""));

function removeRow(table, key) {
  rows.get(`${table} ${key}`)?.remove();
  rows.delete(`${table} ${key}`);
}

function money(element, value) {
  text(element, value ?? "");
  element.className = `n ${Number(value ?? 0) < 0 ? "down" : "up"}`;
}

// What a relay that was restarted does not tell again is not so any more.
function forgetAccount(provider) {
  for (const table of ["accounts", "positions", "orders"])
    for (const [name, row] of rows) if (name.startsWith(`${table} ${provider} `)) { row.remove(); rows.delete(name); }
}

function watchAccount(channel, provider) {
  accountChannels.set(channel, provider);
  subscribe(channel, {
    staleness: ({ event }) => {
      for (const [name, row] of rows) if (name.split(" ")[1] === provider) row.classList.toggle("stale", event === "STALE");
    },
    account: ({ provider, account }) => {
      const row = rowOf("accounts", `${provider} ${account.id}`, ["dim", "", "n", "n", "n"]);
      const known = [row.cells[2].textContent, row.cells[3].textContent];
      fill(row, [provider, account.id, account.balance ?? known[0], account.equity ?? known[1]]);
      if (account.unrealized_pnl !== undefined) money(row.cells[4], account.unrealized_pnl);
    },
    position: ({ provider, event, position }) => {
      const key = `${provider} ${position.id}`;
      if (event === "POSITION_CLOSED") return removeRow("positions", key);
      const row = rowOf("positions", key, ["dim", "", "", "n", "n", "n"]);
      fill(row, [provider, position.symbol, position.side, position.quantity, position.average_entry_price]);
      money(row.cells[5], position.unrealized_pnl);
    },
    order: ({ provider, order, received_at }) => {
      const row = rowOf("orders", `${provider} ${order.id}`, ["dim", "dim", "", "", "n", "n", ""], true);
      const filled = order.quantity === undefined ? order.filled_quantity : `${order.filled_quantity ?? "–"} / ${order.quantity}`;
      fill(row, [received_at.slice(11, 19), provider, order.symbol, order.side, filled, order.average_fill_price ?? order.limit_price, order.status]);
      while ($("orders").rows.length > ORDERS) $("orders").deleteRow(-1);
    },
  });
}

// Account streams need an API key: the demo tells its own, other relays show accounts to applications only.
async function watchAccounts(key) {
  if (accountChannels.size > 0) return;
  const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
  const { streams } = await (await fetch("api/v2/ws/streams", { headers })).json();
  const subscriptions = streams.filter(({ kind }) => kind === "account").flatMap(({ id, example }) => [{ stream: id, filter: example }]);
  if (subscriptions.length === 0) return;
  document.body.classList.remove("no-accounts");
  const answer = await fetch("api/v2/ws/session", { method: "POST", headers, body: JSON.stringify({ subscriptions }) });
  (await answer.json()).subscriptions.forEach(({ channel }, index) => watchAccount(channel, subscriptions[index].stream.split(".")[0]));
}

// --- sessions -------------------------------------------------------------------------------------------------------

function watchProvider(provider) {
  subscribe(`cache-status.${provider}`, {
    connection: (data) => note(data, `${data.event}${data.reason ? ` · ${data.reason}` : ""}${data.gap_ms ? ` · gap ${data.gap_ms} ms` : ""}`, data.event),
    staleness: (data) => note(data, `${data.event} ${data.of ?? ""} ${data.symbols.join(", ")}`, data.event),
    rate_limit: (data) => note(data, data.event, data.event),
    error: (data) => note(data, `${data.code}: ${data.message}`, "FAILED"),
  });
}

function note(data, message, state) {
  const item = document.createElement("li"), time = document.createElement("time"), what = document.createElement("span");
  time.textContent = data.received_at.slice(11, 23);
  what.textContent = `${data.provider} ${message}`;
  what.dataset.state = state;
  item.append(time, what);
  $("log").prepend(item);
  while ($("log").children.length > LOG) $("log").lastChild.remove();
}

function drawSessions(sessions) {
  const body = $("sessions");
  while (body.rows.length > sessions.length) body.deleteRow(-1);
  sessions.forEach((session, index) => {
    const row = body.rows[index] ?? (() => { const made = body.insertRow(); cell(made); cell(made); for (let i = 0; i < 3; i++) cell(made, "", "n"); return made; })();
    text(row.cells[0], session.account ? `${session.provider} / ${session.account}` : session.provider);
    text(row.cells[1], session.state.toLowerCase());
    row.cells[1].dataset.state = session.state;
    ["received", "published", "unknown"].forEach((name, i) => text(row.cells[2 + i], String(session[name])));
  });
}

// --- life -----------------------------------------------------------------------------------------------------------

let apiKey = null;                   // of an operator who signed in; kept by this page only

async function status() {
  const answer = await fetch("api/v2/status", apiKey ? { headers: { Authorization: `Bearer ${apiKey}` } } : {});
  if (answer.status === 401) throw new Error("401");
  if (!answer.ok) throw new Error(`status: HTTP ${answer.status}`);
  return answer.json();
}

function everySecond() {
  text($("rate"), String(received - lastReceived));
  text($("total"), received.toLocaleString("en"));
  text($("latency"), latency === null ? "–" : `${Math.max(0, latency)} ms`);
  text($("streams"), String(channels.size));
  lastReceived = received;
  for (const entry of quotes.values()) if (entry.at) text(entry.cells.age, `${Math.floor(clock() - entry.at)} s`);
  status().then((state) => { drawSessions(state.sessions); answered(true); }).catch(() => answered(false));
}

// Without the relay nothing here is known to be true: everything is greyed, and says since when.
let away = null;

function answered(is) {
  const known = is && pusher.connection.state === "connected";
  away = known ? null : away ?? new Date();
  document.body.classList.toggle("away", !known);
  text($("away"), known ? "" : `nothing heard from the relay since ${away.toTimeString().slice(0, 8)}`);
  if (!known) for (const entry of quotes.values()) breakLine(entry);
}

function draw() {
  const entry = quotes.get(chosen);
  if (entry?.dirty) { entry.dirty = false; plot.setData(entry.series); }
  if (book.dirty) { book.dirty = false; drawLadder(); }
  requestAnimationFrame(draw);
}

function makePlot() {
  const line = (label, stroke) => ({ label, stroke, width: 1.25, points: { show: false }, spanGaps: false });
  const axis = { stroke: "#7d8896", grid: { stroke: "#1f2732", width: 1 }, ticks: { show: false }, font: "10px sans-serif" };
  const size = () => ({ width: $("plot").clientWidth - 12, height: 212 });
  plot = new uPlot({
    ...size(), legend: { show: false }, cursor: { y: false }, scales: { x: { time: true } },
    series: [{}, line("bid", "#3fb68b"), line("ask", "#e0615f")], axes: [axis, { ...axis, size: 76, values: (_, ticks) => ticks.map((tick) => tick.toFixed(quotes.get(chosen)?.digits ?? 2)) }],
  }, [[], [], []], $("plot"));
  addEventListener("resize", () => plot.setSize(size()));
}

async function start() {
  const state = await status();
  makePlot();
  pusher = new Pusher(state.app_key, {
    wsHost: location.hostname, wsPort: location.port || 80, wssPort: location.port || 443,
    forceTLS: location.protocol === "https:", enabledTransports: ["ws", "wss"], disableStats: true, cluster: "",
    channelAuthorization: { endpoint: "api/v2/ws/auth", transport: "ajax", headers: { Authorization: `Bearer ${apiKey ?? state.demo_api_key ?? ""}` } },
  });
  // Of a relay that was restarted: its positions, orders and money come again, and only what comes is so.
  tickrelayResume(pusher, { failed: (channel) => { if (accountChannels.has(channel)) forgetAccount(accountChannels.get(channel)); } });
  pusher.connection.bind("state_change", ({ current }) => { text($("link"), current); $("link").dataset.state = current; answered(current === "connected"); });
  drawSessions(state.sessions);
  for (const provider of new Set(state.sessions.map((session) => session.provider))) watchProvider(provider);
  for (const { provider, symbol, channel, kinds } of state.quotes) watchQuote(`cache-${channel}`, symbol, provider, kinds);
  const richest = [...state.quotes].sort((a, b) => shownKinds(b).length - shownKinds(a).length)[0];
  if (richest) choose(`cache-${richest.channel}`);
  if (apiKey ?? state.demo_api_key) watchAccounts(apiKey ?? state.demo_api_key);
  setInterval(everySecond, 1000);
  requestAnimationFrame(draw);
}

function failed(error) {
  const denied = error.message === "401";
  document.body.classList.toggle("denied", denied);
  text($("link"), denied ? (apiKey ? "this API key is not one of this relay's" : "sign in with an API key") : String(error.message ?? error));
  $("link").dataset.state = "failed";
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("key").value.trim();
  document.body.classList.remove("denied");
  start().catch(failed);
});

start().catch(failed);
