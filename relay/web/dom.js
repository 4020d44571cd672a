// The page's elements: text without markup, tables whose rows have keys, ages, and decimals that stay exact.

export const $ = (id) => document.getElementById(id);

const ATTRIBUTES = ["list"]; // the property of that name cannot be set

/** Return a new element. `properties` with a dash, or without an equivalent, are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in made && !name.includes("-") && !ATTRIBUTES.includes(name)) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Change the text of an element only where it differs: a change of nothing costs a layout. */
export function setText(node, value) {
  const text = value === null || value === undefined ? "" : String(value);
  if (node.textContent !== text) node.textContent = text;
}

/** A table body whose rows have keys. A value is a text, or {text, className, title, node, label}. */
export class Rows {
  constructor(body, columns, { empty = "", choose = null } = {}) {
    this.body = body;
    this.columns = columns; // class names, one per column
    this.rows = new Map();
    this.choose = choose;
    this.blank = element("tr", { className: "blank" }, element("td", { colSpan: columns.length }, empty));
    body.append(this.blank);
    if (choose) body.addEventListener("keydown", moveBetweenRows);
  }

  say(text) { setText(this.blank.firstChild, text); }

  get(key) { return this.rows.get(key); }

  put(key, values, { first = false } = {}) {
    let row = this.rows.get(key);
    if (row === undefined) {
      row = element("tr", this.choose ? { tabIndex: this.rows.size ? -1 : 0 } : {});
      row.dataset.key = key;
      for (const className of this.columns) row.append(element("td", { className }));
      if (this.choose) {
        row.onclick = () => { this.focusable(row); this.choose(key, row); };
        row.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); row.click(); } };
      }
      this.rows.set(key, row);
      if (first) this.body.prepend(row); else this.body.append(row);
      this.blank.remove();
    }
    values.forEach((value, index) => fill(row.cells[index], value, this.columns[index]));
    return row;
  }

  remove(key) {
    this.rows.get(key)?.remove();
    this.rows.delete(key);
    if (this.rows.size === 0) this.body.append(this.blank);
  }

  /** Show these rows and no others, in this order. */
  show(entries) {
    const wanted = new Set(entries.map(([key]) => key));
    for (const key of [...this.rows.keys()]) if (!wanted.has(key)) this.remove(key);
    const rows = entries.map(([key, values]) => this.put(key, values));
    let at = this.body.firstElementChild;
    for (const row of rows) {
      if (row === at) at = at.nextElementSibling; else this.body.insertBefore(row, at);
    }
    if (this.choose && !this.body.querySelector('tr[tabindex="0"]')) this.body.rows[0]?.setAttribute("tabindex", "0");
  }

  clear() { for (const key of [...this.rows.keys()]) this.remove(key); }

  focusable(row) {
    for (const other of this.body.querySelectorAll('tr[tabindex="0"]')) other.tabIndex = -1;
    row.tabIndex = 0;
  }

  mark(key, className = "chosen") {
    for (const [name, row] of this.rows) {
      row.classList.toggle(className, name === key);
      row.setAttribute("aria-selected", name === key);
    }
  }
}

function fill(cell, value, column) {
  const { text, node, className = "", title = "", state = "" } = value !== null && typeof value === "object" ? value : { text: value };
  if (node) { if (cell.firstChild !== node) cell.replaceChildren(node); } else setText(cell, text);
  const wanted = [column, className].filter(Boolean).join(" ");
  if (cell.className !== wanted) cell.className = wanted;
  if ((cell.dataset.state ?? "") !== state) cell.dataset.state = state;
  if (cell.title !== title) cell.title = title;
}

function moveBetweenRows(event) {
  const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
  if (!step || event.target.tagName !== "TR") return;
  const rows = [...this.rows].filter((row) => row.tabIndex !== undefined && !row.hidden && !row.classList.contains("blank"));
  const next = rows[rows.indexOf(event.target) + step];
  event.preventDefault();
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** "4 s", "3 min", "5 h", "2 d": short enough for a column. */
export function span(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const s = Math.max(0, seconds);
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

export const whole = (number) => (number === undefined || number === null ? "" : Number(number).toLocaleString("en"));
export const rate = (number) => (number === null || !Number.isFinite(number) ? "" : number >= 100 ? whole(Math.round(number)) : number.toFixed(1));
/** The time of day of a time stamp, in the time zone of whoever reads. */
export function timeOf(iso, digits = 3) {
  const at = new Date(iso ?? NaN);
  if (Number.isNaN(at.getTime())) return "";
  return at.toTimeString().slice(0, 8) + (digits ? `.${String(at.getMilliseconds()).padStart(3, "0")}` : "");
}

const parts = (text) => {
  const match = /^([+-]?)(\d+)(?:\.(\d*))?$/.exec(String(text));
  return match && { digits: BigInt(`${match[1]}${match[2]}${match[3] ?? ""}`), scale: (match[3] ?? "").length };
};
const written = (digits, scale) => {
  const sign = digits < 0n ? "-" : "", text = (digits < 0n ? -digits : digits).toString().padStart(scale + 1, "0");
  return scale ? `${sign}${text.slice(0, -scale)}.${text.slice(-scale)}` : sign + text;
};

/** The exact sum of decimals as text; null if one of them is none. */
export function sum(texts) {
  const read = texts.map(parts);
  if (read.length === 0 || read.includes(null)) return null;
  const scale = Math.max(...read.map((each) => each.scale));
  return written(read.reduce((total, each) => total + each.digits * 10n ** BigInt(scale - each.scale), 0n), scale);
}

/** The exact difference a - b of decimals as text, null if one is none. */
export function minus(a, b) {
  const negative = /^-/.test(b ?? "") ? String(b).slice(1) : `-${b}`;
  return sum([a, negative]);
}

/** A text for the clipboard; where the page may not use it (plain http), for a selection. */
export async function copy(text, button) {
  const was = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    const area = element("textarea", { value: text, className: "offscreen" });
    document.body.append(area);
    area.select();
    button.textContent = document.execCommand("copy") ? "Copied" : "The browser does not allow copying";
    area.remove();
  }
  setTimeout(() => { button.textContent = was; }, 1500);
}
