// The Monitor's plots: small SVGs of the last 15 minutes, drawn from one message a second.
import { on } from "./stream.js";

const SPAN = 900; // seconds
const HEIGHT = 168, LEFT = 40, RIGHT = 16, TOP = 16, BOTTOM = 26;
let latest = null;
let paused = false;
let hover = null; // fraction of the width, the same in all plots

const NS = "http://www.w3.org/2000/svg";
function svg(tag, attributes, words) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (words !== undefined) made.textContent = words;
  return made;
}

function roundUp(value) {
  if (value <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].map((one) => one * size).find((one) => one >= value);
}

// Lines with their gaps: a value that is missing ends the line.
function paths(points, now, x, y) {
  const lines = [];
  let line = [];
  let before = null;
  for (const [at, value] of points) {
    if (at < now - SPAN) continue;
    if (value === null || (before !== null && at - before > 5)) { if (line.length) lines.push(line); line = []; }
    if (value !== null) line.push(`${x(at).toFixed(1)},${y(value).toFixed(1)}`);
    before = at;
  }
  if (line.length) lines.push(line);
  return lines;
}

function plot(card, told, now) {
  const chart = card.querySelector("svg.ch");
  const width = chart.clientWidth || 560;
  const w = width - LEFT - RIGHT, h = HEIGHT - TOP - BOTTOM;
  const most = told.capacity ?? told.top ?? roundUp(Math.max(1, ...told.series.flatMap((one) => one.points.map((point) => point[1] ?? 0))));
  const x = (at) => LEFT + w * (1 - (now - at) / SPAN), y = (value) => TOP + h - (Math.min(value, most * 1.05) / most) * h;
  const parts = [];
  for (const value of [0, most / 2, most]) {
    parts.push(svg("line", { class: "g", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)));
  }
  for (let i = 0; i < 4; i++) {
    const at = new Date((now - SPAN + (SPAN * i) / 3) * 1000);
    parts.push(svg("text", { x: LEFT + (w * i) / 3, y: HEIGHT - 8, "text-anchor": ["start", "middle", "middle", "end"][i] }, at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })));
  }
  if (told.capacity) parts.push(svg("line", { class: "cap", x1: LEFT, x2: width - RIGHT, y1: y(told.capacity), y2: y(told.capacity) }));
  told.series.slice(0, 4).forEach((one, i) => {
    for (const line of paths(one.points, now, x, y)) {
      parts.push(svg("polyline", { points: line.join(" "), fill: "none", stroke: `var(--sw-series-${i + 1})`, "stroke-width": 1.75, "stroke-linejoin": "round", "stroke-linecap": "round", ...(i === 1 ? { "stroke-dasharray": "5 3" } : {}) }));
    }
  });
  const at = hover === null ? null : now - SPAN + SPAN * hover;
  if (at !== null) parts.push(svg("line", { class: "hair", x1: x(at), x2: x(at), y1: TOP, y2: TOP + h }));
  if (!told.series.some((one) => one.points.length)) parts.push(svg("text", { x: LEFT + w / 2, y: TOP + h / 2, "text-anchor": "middle", class: "nothing" }, told.none || slipway.word("noSample")));
  chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  chart.replaceChildren(...parts);
  const legend = told.series.slice(0, 4).map((one, i) => {
    const near = at === null ? one.points.at(-1) : one.points.reduce((best, point) => (!best || Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best), null);
    const value = near && near[1] !== null && Math.abs(near[0] - (at ?? now)) < 10 ? near[1] : null;
    const item = document.createElement("span");
    const line = document.createElement("i");
    line.className = `ln${i === 1 ? " dash" : ""}`;
    line.style.color = `var(--sw-series-${i + 1})`;
    const figure = document.createElement("b");
    figure.textContent = one.untold ? slipway.word("untold") : value === null ? "–" : `${value >= 100 || told.whole ? Math.round(value) : value.toFixed(1)}${told.unit === "%" ? " %" : ""}`;
    item.append(line, one.name, figure);
    return item;
  });
  card.querySelector("[data-legend]").replaceChildren(...legend);
  chart.setAttribute("aria-label", `${card.querySelector("h2").textContent.trim()}: ${legend.map((one) => one.textContent).join(", ") || slipway.word("noSample")}`);
}

function spark(chart, points, now, color) {
  const values = points.filter((point) => point[0] >= now - SPAN);
  const most = roundUp(Math.max(1, ...values.map((point) => point[1] ?? 0)));
  const lines = paths(values, now, (at) => 320 * (1 - (now - at) / SPAN), (value) => 30 - (value / most) * 28);
  chart.setAttribute("viewBox", "0 0 320 32");
  chart.setAttribute("preserveAspectRatio", "none");
  chart.replaceChildren(...lines.map((line) => svg("polyline", { points: line.join(" "), fill: "none", stroke: `var(--sw-series-${color})`, "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" })));
}

export function drawMonitor() {
  if (!latest?.plots) return;
  for (const card of document.querySelectorAll("[data-plot]")) if (latest.plots[card.dataset.plot]) plot(card, latest.plots[card.dataset.plot], latest.now);
  [...document.querySelectorAll("[data-spark]")].forEach((chart, i) => { const of = (name) => latest.plots[name].series.find((line) => line.key === chart.dataset.spark); const one = of("speed")?.untold ? of("requests") : of("speed"); if (one) spark(chart, one.points, latest.now, (i % 4) + 1); });
}

// The first message brings fifteen minutes, later ones the newest point of each series.
function merge(told) {
  if (told.whole || !latest) return told;
  for (const [name, fresh] of Object.entries(told.plots)) {
    const old = new Map((latest.plots[name]?.series || []).map((one) => [one.key, one.points]));
    for (const one of fresh.series) {
      const points = old.get(one.key) || [];
      const last = points.at(-1)?.[0] ?? 0;
      points.push(...one.points.filter((point) => point[0] > last));
      while (points.length && points[0][0] < told.now - SPAN) points.shift();
      one.points = points;
    }
  }
  return told;
}

on("monitor", (told) => {
  latest = merge(told);
  if (told.gpus === 0) for (const name of ["gpu", "memory"]) latest.plots[name].none = slipway.word("noGpu");
  if (paused) return;
  slipway.fill(told.slots);
  drawMonitor();
});
addEventListener("resize", drawMonitor);
addEventListener("slipway:tab", () => requestAnimationFrame(drawMonitor));
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-monitor-pause]");
  if (!button) return;
  paused = !paused;
  button.setAttribute("aria-pressed", paused);
  button.querySelector("span").textContent = slipway.word(paused ? "resume" : "pause");
});
document.addEventListener("pointermove", (event) => {
  const chart = event.target.closest?.("svg.ch");
  const next = chart ? Math.min(1, Math.max(0, (event.clientX - chart.getBoundingClientRect().left - LEFT) / (chart.clientWidth - LEFT - RIGHT))) : null;
  if (next !== hover) { hover = next; if (latest) drawMonitor(); }
});
