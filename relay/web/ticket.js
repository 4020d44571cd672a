// The ticket: place, amend, cancel and close, for API keys that may. Everything is shown before it is sent, is sent under a name
// that makes a repetition safe, and an outcome that is not known is said to be unknown.

import { $, element, setText } from "./dom.js";
import { ask } from "./relay.js";

const offered = new Map(); // provider -> {accounts, commands: Map(name -> members)}
const PRICES = { MARKET: [], LIMIT: ["limit_price"], STOP: ["stop_price"], STOP_LIMIT: ["limit_price", "stop_price"], TRAILING_STOP: ["trailing_distance"] };
const LABELS = { limit_price: "Limit price", stop_price: "Stop price", trailing_distance: "Trailing distance", stop_loss: "Stop loss", take_profit: "Take profit", time_in_force: "Time in force", good_till: "Good till (RFC 3339)", quantity: "Quantity", reduce_only: "reduce only", post_only: "post only" };
const EXTRAS = ["time_in_force", "good_till", "stop_loss", "take_profit"];

const name = () => ("randomUUID" in crypto ? crypto.randomUUID() : [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""));

/** True if this API key may give the command for the account. */
export const mayTrade = (provider, account, command) => Boolean(offered.get(provider)?.accounts.includes(account) && offered.get(provider).commands.has(command));

// --- the form -------------------------------------------------------------------------------------------------------

export async function openTicket() {
  try {
    const { data } = await ask("api/v2/commands");
    for (const { provider, accounts, commands } of data.providers) offered.set(provider, { accounts, commands: new Map(commands.map(({ command, members }) => [command, members])) });
  } catch (error) { return refuse(`Orders cannot be placed: ${error.message}.`); }
  const places = [...offered].filter(([, { commands }]) => commands.has("place_order")).flatMap(([provider, { accounts }]) => accounts.map((account) => [provider, account]));
  if (places.length === 0) return refuse("This API key may read accounts and not trade. An operator grants it in [api_keys.NAME] trade = [\"PROVIDER.ACCOUNT\"].");
  const select = element("select", { id: "ticket-account", required: true }, ...places.map(([provider, account]) => element("option", { value: JSON.stringify([provider, account]) }, `${provider} / ${account}`)));
  const form = $("ticket");
  form.className = "fields";
  form.replaceChildren(
    label("Account", select), label("Symbol", element("input", { id: "ticket-symbol", name: "symbol", required: true, autocomplete: "off", list: "ticket-symbols" })),
    element("datalist", { id: "ticket-symbols" }), label("Type", element("select", { id: "ticket-type", name: "order_type" })), label("Quantity", number("quantity", true)),
    element("div", { className: "fields", id: "ticket-prices" }), element("div", { className: "fields", id: "ticket-extras" }),
    element("div", { className: "sides" }, element("button", { className: "primary buy", value: "BUY" }, "Buy …"), element("button", { className: "primary sell", value: "SELL" }, "Sell …")),
  );
  select.onchange = fieldsOfProvider;
  $("ticket-type").onchange = prices;
  $("ticket-symbol").oninput = suggest;
  form.onsubmit = (event) => { event.preventDefault(); place(event.submitter?.value ?? "BUY"); };
  fieldsOfProvider();
}

const label = (text, input) => element("label", {}, text, input);
const number = (field, required = false, value = "") => element("input", { name: field, required, value, inputMode: "decimal", pattern: "\\s*[0-9]*[.]?[0-9]+\\s*", autocomplete: "off", title: "a decimal number, with a point" });
const refuse = (text) => $("ticket").replaceChildren(element("p", { className: "dim note" }, text));
const chosen = () => JSON.parse($("ticket-account").value);
const member = (command, field) => offered.get(chosen()[0])?.commands.get(command)?.find((each) => each.name === field);

function fieldsOfProvider() {
  const types = member("place_order", "order_type")?.values ?? ["MARKET", "LIMIT"], before = $("ticket-type").value;
  $("ticket-type").replaceChildren(...types.map((type) => element("option", { value: type }, type.toLowerCase().replaceAll("_", " "))));
  if (types.includes(before)) $("ticket-type").value = before;
  const fields = EXTRAS.filter((field) => member("place_order", field));
  $("ticket-extras").replaceChildren(...fields.map((field) => field === "time_in_force"
    ? label(LABELS[field], element("select", { name: field }, element("option", { value: "" }, "the provider's default"), ...member("place_order", field).values.map((value) => element("option", { value }, value))))
    : label(LABELS[field], field === "good_till" ? element("input", { name: field, placeholder: "with GTD", autocomplete: "off" }) : number(field))),
  ...["reduce_only", "post_only"].filter((field) => member("place_order", field)).map((field) => element("label", { className: "check" }, element("input", { type: "checkbox", name: field }), LABELS[field])));
  prices();
  suggest();
}

function prices() {
  $("ticket-prices").replaceChildren(...PRICES[$("ticket-type").value].map((field) => label(LABELS[field], number(field, true))));
}

let asked = 0;
async function suggest() {
  const count = ++asked, query = $("ticket-symbol").value.trim();
  const { data } = await ask(`api/v2/symbols?limit=12&provider=${encodeURIComponent(chosen()[0])}&q=${encodeURIComponent(query)}`).catch(() => ({ data: { symbols: [] } }));
  if (count === asked) $("ticket-symbols").replaceChildren(...data.symbols.map(({ symbol, name: called }) => element("option", { value: symbol }, called ?? "")));
}

function place(side) {
  const [provider, account] = chosen(), order = { side };
  for (const [field, value] of new FormData($("ticket"))) if (String(value).trim()) order[field] = value === "on" ? true : String(value).trim();
  confirm(`${side === "BUY" ? "Buy" : "Sell"} ${order.quantity} ${order.symbol}`, { provider, account, command: "place_order", ...order }, { go: side === "BUY" ? "Buy" : "Sell", className: side.toLowerCase() });
}

// --- what a row offers ----------------------------------------------------------------------------------------------

const asking = (provider, field, command) => offered.get(provider)?.commands.get(command)?.some((each) => each.name === field);

export function cancel(provider, account, order) {
  confirm(`Cancel order ${order.id}`, { provider, account, command: "cancel_order", order_id: order.id, symbol: order.symbol }, { go: "Cancel the order", back: "Keep it" });
}

export function amend(provider, account, order) {
  const fields = ["quantity", "limit_price", "stop_price", "stop_loss", "take_profit"].filter((field) => asking(provider, field, "amend_order"));
  confirm(`Amend order ${order.id}`, { provider, account, command: "amend_order", order_id: order.id, symbol: order.symbol }, { go: "Amend", fields, values: order, onlyChanged: true });
}

export function closePosition(provider, account, position) {
  confirm(`Close ${position.side} ${position.quantity} ${position.symbol}`, { provider, account, command: "close_position", position_id: position.id, symbol: position.symbol }, { go: "Close", fields: ["quantity"], hint: "the whole position" });
}

// --- confirm, send, and what came of it ----------------------------------------------------------------------------

function confirm(title, command, { go, back = "Back", className = "", fields = [], values = {}, onlyChanged = false, hint = "" }) {
  const dialog = $("confirm"), key = name();
  const check = $("confirm-check");
  let checks = 0; // only the answer to the last question is shown, and only while this dialog is open
  setText($("confirm-title"), title);
  setText($("confirm-error"), "");
  setText($("confirm-sends"), "");
  setText($("confirm-go"), go);
  setText(dialog.querySelector('button[value=""]'), back);
  $("confirm-go").className = `primary ${className}`;
  $("confirm-what").replaceChildren(...Object.entries(command).filter(([, value]) => value !== undefined && value !== "").flatMap(([field, value]) => [element("dt", {}, field.replaceAll("_", " ")), element("dd", {}, String(value))]));
  $("confirm-fields").replaceChildren(...fields.map((field) => { const input = number(field, false, values[field] ?? ""); input.placeholder = hint || (onlyChanged ? "as it is" : ""); return label(LABELS[field] ?? field, input); }));
  const whole = () => {
    const given = {};
    for (const [field, value] of new FormData($("confirm-form"))) {
      const text = String(value).trim();
      if (text && (!onlyChanged || text !== (values[field] ?? ""))) given[field] = text;
    }
    return { ...command, ...given };
  };
  const onCheck = async () => {
    const count = ++checks, isOurs = () => count === checks && check.onclick === onCheck && dialog.open;
    setText($("confirm-error"), "");
    setText($("confirm-sends"), "");
    try {
      const { data } = await ask("api/v2/commands", { method: "POST", body: { ...whole(), dry_run: true } });
      if (isOurs()) setText($("confirm-sends"), data.sends.map((each) => (typeof each === "string" ? each : JSON.stringify(each, null, 1))).join("\n") || "nothing");
    } catch (error) { if (isOurs()) setText($("confirm-error"), error.message); }
  };
  check.onclick = onCheck;
  $("confirm-fields").oninput = () => { checks += 1; setText($("confirm-sends"), ""); }; // it is not what would be sent any more
  $("confirm-form").onsubmit = (event) => {
    if (event.submitter?.value !== "go") return;
    send(title, whole(), key);
  };
  dialog.showModal();
}

const ANSWERS = 5;

/** Send, and say what came of it in a place of its own: no other answer hides an order whose outcome is unknown. */
async function send(title, command, key, answer = element("div")) {
  const line = (className, text) => element("p", { className }, text);
  answer.dataset.state = "waiting";
  answer.replaceChildren(line("dim", `${title}: sent, waiting for the answer …`));
  $("ticket-answer").prepend(answer);
  for (const old of [...$("ticket-answer").querySelectorAll(':scope > [data-state="over"]')].slice(ANSWERS - 1)) old.remove();
  try {
    const { data, headers } = await ask("api/v2/commands", { method: "POST", body: command, headers: { "Idempotency-Key": key } });
    const again = headers.get("Idempotent-Replayed") ? " (the answer to the first time it was sent)" : "";
    answer.dataset.state = "over";
    if (data.outcome === "accepted") answer.replaceChildren(line("up", `${title}: accepted${again}${data.result?.order_id ? `, order ${data.result.order_id}` : ""}.`));
    else if (data.outcome === "rejected") answer.replaceChildren(line("down", `${title}: rejected${again}. ${data.error?.message ?? data.error?.code ?? ""}`));
    else unknown(data.error?.message ?? "the provider did not answer");
  } catch (error) {
    answer.dataset.state = "over";
    if (error.status === 0 || error.status >= 500 && !error.answer?.error) unknown(error.message);
    else answer.replaceChildren(line("down", `${title}: not sent. ${error.message}`));
  }
  answer.scrollIntoView({ block: "nearest" });

  function unknown(why) {
    answer.dataset.state = "unknown";
    answer.replaceChildren(element("div", { className: "unknown" }, line("warn", `${title}: the outcome is unknown: ${why}.`),
      line("", "The order may be live. Look at the orders and positions before you place another one. Asking again under the same name sends nothing twice."),
      element("button", { type: "button", onclick: () => send(title, command, key, answer) }, "Ask again")));
  }
}
