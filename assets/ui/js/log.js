// The log: lines as they come, only those in sight are in the page. Exact heights, so that nothing jumps.
import { on, watch } from "./stream.js";

const ROW = 20;
const MOST = 200_000; // lines kept in the page; the download has all
const $ = (name) => document.querySelector(`[data-log-${name}]`);
const state = { run: null, step: null, start: 0, newest: true, pinned: false, lines: [], levels: [], base: 0, skipped: 0, ended: false, rest: "" };
let level = "all";
let query = "";
let shown = null; // indices of the lines that the filter lets through; null: all
let tops = new Uint32Array(1024); // tops[i]: rows above the i-th shown line
let widths = new Uint32Array(1024); // widths[i]: cells that the i-th line takes
let columns = 80;
let cell = 7.2;
let follow = true;
let drawn = 0; // how far down the lines were drawn: who is further up has scrolled there
let unseen = 0;
let found = [];
let at = -1;
let due = false;
const counts = { W: 0, E: 0 };
let best = null; // the step of the run in which most happens
let starts = {}; // how often each step was started, of those that were more than once
let timed = false; // no line carries a time: its column takes no room

const GLOG = /^([IWEF])\d{4} (\d\d:\d\d:\d\d\.\d{3})\d* +\d+ /;
const WARNING = /\bwarn(ing)?\b|\[W\]/i;
const ERROR = /error\b|\bfatal\b|\btraceback\b|exception\b|\[E\]|\bout of memory\b/i;

function levelOf(line) {
  const glog = GLOG.exec(line);
  if (glog && !timed) { timed = true; columns = 0; document.querySelector("[data-log]").dataset.timed = ""; }
  if (glog) return glog[1] === "F" ? "E" : glog[1];
  const head = line.length > 300 ? line.slice(0, 300) : line;
  return ERROR.test(head) ? "E" : WARNING.test(head) ? "W" : "";
}

// How many cells a line takes: Chinese and other wide letters take two.
function cells(line) {
  for (let i = 0; i < line.length; i++) {
    if (line.charCodeAt(i) > 126 || line.charCodeAt(i) === 9) return slowCells(line);
  }
  return line.length;
}
function slowCells(line) {
  let n = 0;
  for (const letter of line) {
    const code = letter.codePointAt(0);
    if (code === 9) n += 8 - (n % 8);
    else n += (code >= 0x1100 && code <= 0x115f) || (code >= 0x2e80 && code <= 0xffe6 && !(code >= 0xd7a4 && code < 0xf900)) || code >= 0x1f300 ? 2 : 1;
  }
  return n;
}

const text = (line) => line.replace(GLOG, "");
const rows = (wide) => Math.max(1, Math.ceil(wide / (columns || 80)));
const size = () => (shown ? shown.length : state.lines.length);
const real = (i) => (shown ? shown[i] : i);

function room(array, n) {
  if (array.length > n + 1) return array;
  const bigger = new Uint32Array(Math.max(array.length * 2, n + 2));
  bigger.set(array);
  return bigger;
}

function measureFrom(start) {
  const n = size();
  tops = room(tops, n);
  if (!start) tops[0] = 0;
  for (let i = start; i < n; i++) tops[i + 1] = tops[i] + rows(widths[real(i)]);
}

function refilter() {
  shown = null;
  if (level !== "all") {
    shown = [];
    for (let i = 0; i < state.levels.length; i++) if (state.levels[i] === level) shown.push(i);
  }
  measureFrom(0);
}

function setLevel(name) {
  level = name;
  for (const one of document.querySelectorAll("[data-log-level]")) { one.classList.toggle("on", one.dataset.logLevel === level); one.setAttribute("aria-pressed", one.dataset.logLevel === level); }
  refilter();
  search();
}

function search() {
  found = [];
  at = -1;
  searchFrom(0);
  foot();
}

function searchFrom(start) {
  if (!query) return;
  const wanted = new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i");
  for (let i = start, n = size(); i < n; i++) if (wanted.test(state.lines[real(i)])) found.push(i);
}

function jump(step) {
  if (!found.length) return;
  at = at < 0 ? (step > 0 ? 0 : found.length - 1) : (at + step + found.length) % found.length;
  lookAt(found[at]);
  foot();
}

function lookAt(i) {
  setFollow(false);
  draw(); // a view is as high as what was drawn in it last, and cannot be scrolled beyond that
  const view = $("view");
  view.scrollTop = tops[i] * ROW - view.clientHeight / 3;
  draw();
}

export function openLog(run, step, pinned = false) {
  if (state.run === run && state.step === step) return;
  if (state.run !== run) starts = {};
  show(run, step, pinned, starts[step] || 0, true);
}

// The step in which most happens is shown, except to a person who chose another or reads further up.
export function openBest(run, step) {
  best = step;
  if (state.run !== run || !state.step || (follow && !state.pinned)) openLog(run, step);
}

// `start`: the one start of the step whose lines are shown, 1 is the first; 0: all. `newest`: a new one is moved on to.
function show(run, step, pinned, start, newest) {
  Object.assign(state, { run, step, start, newest, pinned, lines: [], levels: [], base: 0, skipped: 0, ended: false, rest: "" });
  Object.assign(counts, { W: 0, E: 0 });
  timed = false;
  delete document.querySelector("[data-log]")?.dataset.timed;
  shown = level === "all" ? null : []; found = []; at = -1; unseen = 0;
  measureFrom(0);
  setFollow(true);
  bar();
  watch({ run, step, start });
  later();
}

// A new start takes the place of the one before it, except under the eyes of a person who reads there.
function started(told) {
  if (told.run !== state.run) return;
  starts = told.starts;
  const last = starts[state.step] || 0;
  if (state.newest && last > state.start) {
    if (follow) return show(state.run, state.step, state.pinned, last, true);
    state.newest = false;
  }
  bar();
}

function bar() { // where the download leads, and the starts that can be chosen
  const { run, step } = state, select = $("start"), n = starts[step] || 0, w = slipway.word;
  if (!select) return;
  if (run && step) $("download").href = `/slipway/runs/${encodeURIComponent(run)}/log/${encodeURIComponent(step)}${state.start ? `?start=${state.start}` : ""}`;
  const word = (start) => w(start === n ? "thisStart" : start === n - 1 ? "previousStart" : "oneStart", { n: start, all: n });
  const listed = new Set([n, n - 1, n - 2, n - 3, n - 4, state.start].filter((start) => start > 0));
  const options = n ? [...[...listed].map((start) => [word(start), start]), [w("allStarts", { n }), 0]] : [];
  select.hidden = !n;
  if (options.join() !== select.dataset.was) select.replaceChildren(...options.map((one) => new Option(...one)));
  select.dataset.was = options.join();
  select.value = state.start;
}

export const logIs = () => state;

function take(page) {
  if (page.step !== state.step) return;
  const before = size();
  widths = room(widths, state.lines.length + page.lines.length);
  for (const line of page.lines) {
    const one = levelOf(line);
    widths[state.lines.length] = cells(text(line));
    state.lines.push(line);
    state.levels.push(one);
    if (one === "W" || one === "E") counts[one]++;
    if (shown && one === level) shown.push(state.lines.length - 1);
  }
  state.ended = page.ended;
  state.rest = page.rest || "";
  measureFrom(before);
  searchFrom(before);
  if (state.lines.length > MOST) forget(state.lines.length - MOST + MOST / 10);
  if (!follow) unseen += page.lines.length;
  later();
}

// The oldest lines go; what is in sight stays where it is.
function forget(gone) {
  const view = $("view");
  const kept = shown ? shown.findIndex((index) => index >= gone) : gone;
  const lost = kept < 0 ? size() : kept; // shown lines that go
  const height = tops[lost] * ROW;
  state.lines.splice(0, gone);
  state.levels.splice(0, gone);
  widths.copyWithin(0, gone);
  state.base += gone;
  if (shown) shown = shown.slice(lost).map((index) => index - gone);
  measureFrom(0);
  found = found.slice(found.findIndex((index) => index >= lost) < 0 ? found.length : found.findIndex((index) => index >= lost)).map((index) => index - lost);
  at = -1;
  if (view && !follow) view.scrollTop = Math.max(0, view.scrollTop - height);
}

function later() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; fit(); draw(); foot(); });
}

let measured = null; // the view and its width that `columns` is for: measuring makes the browser lay the page out
function fit() {
  const view = $("view");
  const wide = view?.clientWidth;
  const key = `${wide} ${timed}`;
  if (!wide || (measured?.view === view && measured.key === key)) return;
  measured = { view, key };
  const probe = document.createElement("span");
  probe.textContent = "0".repeat(100);
  probe.style.cssText = "position:absolute;visibility:hidden;white-space:pre";
  $("rows").append(probe);
  cell = probe.getBoundingClientRect().width / 100 || cell;
  probe.remove();
  const narrow = matchMedia("(max-width: 720px)").matches;
  const fits = Math.max(10, Math.floor((wide - (narrow ? 40 : timed ? 190 : 90)) / cell));
  if (fits !== columns) { columns = fits; measureFrom(0); }
}
document.fonts?.ready.then(() => { measured = null; later(); });

function first(row) { // the shown line that holds that row
  let low = 0, high = size() - 1;
  while (low < high) { const middle = (low + high + 1) >> 1; if (tops[middle] <= row) low = middle; else high = middle - 1; }
  return low;
}

function mark(target, words) {
  const lower = words.toLowerCase(), wanted = query.toLowerCase();
  let from = 0;
  for (let hit = lower.indexOf(wanted); hit >= 0; hit = lower.indexOf(wanted, from)) {
    target.append(words.slice(from, hit));
    const one = document.createElement("mark");
    one.textContent = words.slice(hit, hit + wanted.length);
    target.append(one);
    from = hit + wanted.length;
  }
  target.append(words.slice(from));
}

function draw() {
  const view = $("view"), space = $("space"), body = $("rows");
  if (!view) return;
  const n = size();
  const below = state.rest && !shown ? rows(cells(state.rest)) : 0;
  const height = (tops[n] + below) * ROW;
  if (space.dataset.height !== String(height)) { space.dataset.height = height; space.style.height = `${height}px`; }
  $("nothing").hidden = state.lines.length > 0 || Boolean(state.rest);
  if (follow) view.scrollTop = height;
  const from = drawn = view.scrollTop;
  const start = n ? first(Math.max(0, Math.floor(from / ROW) - 10)) : 0;
  const end = Math.floor((from + view.clientHeight) / ROW) + 10;
  const made = document.createDocumentFragment();
  let i = start;
  for (; i < n && tops[i] <= end; i++) {
    const index = real(i), line = state.lines[index], glog = GLOG.exec(line), one = state.levels[index];
    const row = rowOf([(state.base + index + 1).toLocaleString("en"), glog ? glog[2] : "", one], text(line), tops[i + 1] - tops[i]);
    if (one === "W" || one === "E") row.classList.add(one);
    if (found[at] === i) row.classList.add("hit");
    made.append(row);
  }
  if (below && i === n) {
    const row = rowOf(["", "", ""], state.rest, below);
    row.classList.add("rest");
    made.append(row);
  }
  body.style.transform = `translateY(${tops[start] * ROW}px)`;
  body.replaceChildren(made);
}

function rowOf(cellsBefore, words, high) {
  const row = document.createElement("div");
  row.style.height = `${high * ROW}px`;
  for (const told of cellsBefore) {
    const part = document.createElement("span");
    part.textContent = told;
    row.append(part);
  }
  const part = document.createElement("span");
  if (query) mark(part, words); else part.textContent = words;
  row.append(part);
  return row;
}

function foot() {
  const w = slipway.word;
  const lines = $("lines");
  if (!lines) return;
  const total = state.base + state.lines.length;
  lines.textContent = w("lines", { n: total.toLocaleString("en") }) + (state.base || state.skipped ? ` · ${w("earlier", { n: state.base ? state.base.toLocaleString("en") : "…" })}` : "");
  for (const one of ["W", "E"]) document.querySelector(`[data-log-count="${one}"]`).textContent = counts[one].toLocaleString("en");
  $("first").hidden = counts.E === 0;
  $("found").textContent = query ? (found.length ? w("found", { a: at + 1 || "–", n: found.length.toLocaleString("en") }) : w("notFound")) : "";
  const pill = $("pill");
  pill.hidden = follow || unseen === 0;
  pill.textContent = w("newLines", { n: unseen.toLocaleString("en") });
  const mood = state.ended ? ["stopped", "ended"] : lost ? ["starting", "reconnecting"] : ["running", "live"];
  const told = $("state");
  if (told.textContent !== w(mood[1])) { told.className = `st ${mood[0]}`; told.textContent = w(mood[1]); }
}

function setFollow(on) {
  follow = on;
  if (on) unseen = 0;
  const box = $("follow");
  if (box) box.checked = on;
  later();
}

let lost = false;
on("log", take);
on("run", started);
on("skip", (told) => { state.skipped = told.bytes; later(); });
on("state", (told) => { lost = told === "lost"; foot(); });

document.addEventListener("input", (event) => {
  if (!event.target.matches?.("[data-log-search]")) return;
  query = event.target.value;
  search();
  if (found.length) jump(1); else later();
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches?.("[data-log-search]") && event.key === "Enter") { event.preventDefault(); jump(event.shiftKey ? -1 : 1); }
});
document.addEventListener("change", (event) => {
  if (event.target.matches?.("[data-log-follow]")) {
    setFollow(event.target.checked);
    if (follow && !state.pinned) openLog(state.run, best);
  }
  if (event.target.matches?.("[data-log-start]")) show(state.run, state.step, true, Number(event.target.value), Number(event.target.value) === starts[state.step]);
});
document.addEventListener("scroll", (event) => {
  const view = event.target;
  if (!view.matches?.("[data-log-view]")) return;
  const below = view.scrollHeight - view.scrollTop - view.clientHeight;
  if (follow && below > 2 * ROW && view.scrollTop < drawn) setFollow(false); else if (!follow && below < 4) setFollow(true);
  later();
}, true);
document.addEventListener("click", async (event) => {
  const hit = (name) => event.target.closest?.(`[data-log-${name}]`);
  if (hit("pill")) setFollow(true);
  else if (hit("copy")) slipway.copy(state.lines.join("\n") + (state.rest ? `\n${state.rest}` : ""));
  else if (hit("level")) {
    setLevel(hit("level").dataset.logLevel);
    setFollow(true);
  } else if (hit("first")) {
    setLevel("all");
    const index = state.levels.indexOf("E");
    if (index >= 0) lookAt(index); // else it is so long ago that its line has gone from the page
  } else if (hit("step")) openLog(state.run, hit("step").dataset.logStep, true);
});
// Gradio makes the log when its tab is first opened; what came before that is drawn once it has a size.
const sized = new ResizeObserver(() => { bar(); later(); });
export function startLog() {
  const view = $("view");
  if (!view || "sized" in view.dataset) return;
  view.dataset.sized = "";
  sized.observe(view);
}
