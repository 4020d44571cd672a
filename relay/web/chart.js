// The chart: uPlot with lines of bid and ask, or with candles, in the colours of the page.

import { $ } from "./dom.js";

let plot = null, digits = 2;
const colour = (name) => {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};
const size = () => ({ width: Math.max($("plot").clientWidth - 12, 100), height: 252 });
const decimals = (price) => (price ?? "").split(".")[1]?.length ?? 0;

/** Draw open, high, low and close: the series 1 to 4. */
function candles(up, down) {
  return (u) => {
    const [times, opens, highs, lows, closes] = u.data, { ctx } = u;
    const x = (value) => Math.round(u.valToPos(value, "x", true)), y = (value) => Math.round(u.valToPos(value, "y", true));
    const least = times.length > 1 ? Math.min(...times.slice(1).map((time, n) => time - times[n])) : 60;
    const width = Math.max(1, Math.min(22, (x(times[0] + least) - x(times[0])) * 0.7));
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    times.forEach((time, n) => {
      ctx.fillStyle = closes[n] >= opens[n] ? up : down;
      const top = y(Math.max(opens[n], closes[n])), bottom = y(Math.min(opens[n], closes[n])), middle = x(time);
      ctx.fillRect(middle - 0.5, y(highs[n]), 1, y(lows[n]) - y(highs[n]));
      ctx.fillRect(middle - width / 2, top, width, Math.max(1, bottom - top));
    });
    ctx.restore();
  };
}

/** Make the chart anew, as "lines" or "candles". */
export function chart(kind) {
  plot?.destroy();
  const up = colour("up"), down = colour("down"), grid = colour("line"), text = colour("dim");
  const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px sans-serif" };
  const line = (label, stroke) => ({ label, stroke, width: 1.25, points: { show: false }, spanGaps: false });
  const none = (label) => ({ label, paths: () => null, points: { show: false } });
  plot = new uPlot({
    ...size(), legend: { show: false }, cursor: { y: false }, scales: { x: { time: true, range: kind === "candles" ? roomy : undefined } },
    series: kind === "lines" ? [{}, line("bid", up), line("ask", down)] : [{}, ...["open", "high", "low", "close"].map(none)],
    axes: [{ ...axis, values: kind === "lines" ? clockTimes : undefined, space: 80 }, { ...axis, size: 78, values: (_, ticks) => ticks.map((tick) => tick.toFixed(digits)) }],
    hooks: kind === "candles" ? { draw: [candles(up, down)] } : {},
  }, kind === "lines" ? [[], [], []] : [[], [], [], [], []], $("plot"));
}

const clockTimes = (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, 8));
/** At least ten candles wide, so that the first one is a candle and no wall. */
function roomy(u, least, most) {
  const times = u.data[0], step = times.length > 1 ? times.at(-1) - times.at(-2) : 60;
  return [Math.min(least, most - 20 * step) - step, most + step];
}

export function drawChart(data, { bid, ask }) {
  digits = Math.max(decimals(bid), decimals(ask));
  plot?.setData(data);
}

new ResizeObserver(() => plot?.setSize(size())).observe($("plot"));
