// The conversation: questions, streamed answers with figures measured at the panel, stop, again, copy.
import { Growing } from "./markdown.js";
import { on } from "./stream.js";

const $ = (name) => document.querySelector(`[data-chat-${name}]`);
const KEY = "slipway_chat";
const w = (key, values) => slipway.word(key, values);
let turns = []; // {role, text, figures?, state?}
let running = null;
let live = null; // the row of the answer that comes now
let ready = false;
let wantedServer = null;

const store = () => slipway.keep(KEY, JSON.stringify({ turns: turns.slice(-200), server: server(), system: $("system")?.value || "", sampling: raw() }));
const server = () => $("server")?.value || "";
const nameOf = () => $("server")?.selectedOptions[0]?.textContent.trim() || "";
const raw = () => Object.fromEntries([...document.querySelectorAll("[data-sampling]")].map((one) => [one.dataset.sampling, one.value]));

function sampling() {
  const told = {};
  for (const [name, value] of Object.entries(raw())) {
    if (!value.trim()) continue;
    if (name === "stop") told.stop = value.split("\n").filter((line) => line);
    else told[name] = Number.isNaN(Number(value)) ? value : Number(value);
  }
  return told;
}

function element(tag, name, words) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (words !== undefined) made.textContent = words;
  return made;
}

const icon = (name) => { const box = element("span", "ic"); box.innerHTML = `<svg class="i" aria-hidden="true"><use href="#i-${name}"/></svg>`; return box; };
function iconButton(name, label, action) {
  const made = element("button", "btn ghost icon sm");
  made.type = "button";
  made.append(icon(name));
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

const ms = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`);

function figures(target, told, state) {
  const parts = [];
  const add = (before, value, after) => { const one = element("span"); if (before) one.append(`${before} `); one.append(element("b", "", value)); if (after) one.append(` ${after}`); parts.push(one); };
  if (told.ttft != null) add("TTFT", ms(told.ttft));
  if (told.speed) add("", told.speed.toFixed(told.speed < 100 ? 1 : 0), "tok/s");
  if (told.tokens) add("", told.tokens.toLocaleString("en"), w("tokens"));
  if (told.seconds != null) add("", told.seconds < 1 ? Math.round(told.seconds * 1000) : told.seconds.toFixed(1), told.seconds < 1 ? "ms" : "s");
  if (state) { const one = element("span", `st ${state[0]}`, state[1]); parts.push(one); }
  target.replaceChildren(...parts);
}

function question(turn) {
  const row = element("div", "user-row");
  const body = element("div", "user message", turn.text);
  row.append(body);
  $("log").append(row);
}

function answerBox() {
  const row = element("div", "bot-row");
  const message = element("div", "bot message");
  const text = element("div", "words");
  const line = element("div", "ans num");
  message.append(text, line);
  row.append(message);
  $("log").append(row);
  return { row, text, line, growing: new Growing(text) };
}

function finish(box, turn, index) {
  const state = turn.state === "stopped" ? ["stopped", w("stoppedByYou")] : turn.figures?.finish === "length" ? ["degraded", w("atLimit")] : null;
  figures(box.line, turn.figures || {}, state);
  const tools = element("span", "end");
  tools.append(iconButton("copy", w("copy"), () => slipway.copy(turn.text)));
  if (index === turns.length - 1) tools.append(iconButton("restart", w("again"), () => again(index)));
  box.line.append(tools);
}

function failure(box, trouble) {
  const card = element("div", "note bad");
  card.setAttribute("role", "alert");
  card.append(icon("warn"));
  const words = element("div");
  words.append(element("strong", "", trouble.title || w("failed")));
  if (trouble.hint) words.append(` ${trouble.hint}`);
  card.append(words);
  box.text.append(card);
}

function draw() {
  const log = $("log");
  if (!log) return;
  log.replaceChildren();
  if (!turns.length) log.append(element("p", "muted hello", w("hello", { name: nameOf() })));
  turns.forEach((turn, index) => {
    if (turn.role === "user") return question(turn);
    if (running && turn === turns.at(-1)) return log.append(live.row);
    const box = answerBox();
    box.growing.add(turn.text);
    if (turn.trouble) failure(box, turn.trouble);
    finish(box, turn, index);
  });
  log.scrollTop = log.scrollHeight;
  summary();
}

function summary() {
  const told = turns.filter((turn) => turn.figures);
  const middle = (values) => { const sorted = values.filter((one) => one != null).sort((a, b) => a - b); const half = sorted.length >> 1; return !sorted.length ? null : sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2; };
  const set = (name, value) => { const one = document.querySelector(`[data-chat-figure="${name}"]`); if (one) one.textContent = value; };
  const first = middle(told.map((turn) => turn.figures.ttft)), speed = middle(told.map((turn) => turn.figures.speed));
  const last = told.at(-1)?.figures;
  set("answers", told.length || "–");
  set("ttft", first == null ? "–" : ms(first));
  set("speed", speed == null ? "–" : `${speed.toFixed(1)} tok/s`);
  set("context", last?.prompt_tokens != null ? `${(last.prompt_tokens + last.tokens).toLocaleString("en")} ${w("tokens")}` : "–");
  const values = raw();
  $("summary").textContent = [values.temperature && `${w("temperature")} ${values.temperature}`, values.top_p && `top-p ${values.top_p}`].filter(Boolean).join(" · ") || w("defaults");
  $("system-summary").textContent = $("system").value.trim() ? w("set") : w("none");
  $("about").textContent = $("server").selectedOptions[0]?.dataset.about || "";
  const box = document.querySelector("[data-chat-form] textarea");
  if (box) box.placeholder = w("ask", { name: nameOf() });
}

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
}

async function ask() {
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...turns.filter((turn) => !turn.trouble || turn.text).map((turn) => ({ role: turn.role, content: turn.text })).filter((turn) => turn.content)];
  const turn = { role: "assistant", text: "", figures: null };
  turns.push(turn);
  const box = answerBox();
  const caret = element("span", "caret");
  box.text.append(caret);
  figures(box.line, {}, ["starting", w("answering")]);
  running = new AbortController();
  live = box;
  busy(true);
  const begun = performance.now();
  let done = false;
  try {
    const answer = await fetch("/slipway/chat", {
      method: "POST", signal: running.signal, headers: { "content-type": "application/json" },
      body: JSON.stringify({ run: server(), messages, sampling: sampling() }),
    });
    if (!answer.ok) { turn.trouble = await answer.json().catch(() => ({ title: w("failed") })); throw turn.trouble; }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done: over } = await reader.read();
      if (over) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const told = JSON.parse(line);
        if (told.text) {
          const log = $("log");
          const stick = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
          turn.text += told.text;
          caret.remove();
          box.growing.add(told.text);
          (box.text.lastElementChild || box.text).append(caret);
          const seconds = (performance.now() - begun) / 1000;
          const speed = told.pieces > 1 && seconds > told.ttft ? (told.pieces - 1) / (seconds - told.ttft) : 0;
          turn.figures = { ttft: told.ttft, tokens: told.pieces, speed };
          figures(box.line, turn.figures, ["starting", w("answering")]);
          if (stick) log.scrollTop = log.scrollHeight;
        } else if (told.done) { turn.figures = told.done; done = true; } else if (told.trouble) { turn.trouble = told.trouble; done = true; }
      }
    }
    if (!done) turn.trouble = { title: w("failed"), hint: w("lostAnswer") };
  } catch (error) {
    if (error?.name === "AbortError") turn.state = "stopped";
    else if (!turn.trouble) turn.trouble = { title: w("failed"), hint: w("lostAnswer") };
  }
  caret.remove();
  if (turn.trouble) failure(box, turn.trouble);
  running = null;
  busy(false);
  finish(box, turn, turns.indexOf(turn));
  store();
  summary();
}

function send() {
  const box = document.querySelector("[data-chat-form] textarea");
  const words = box.value.trim();
  if (!words || running || !server()) return;
  box.value = "";
  grow(box);
  turns.push({ role: "user", text: words });
  $("log").querySelector(".hello")?.remove();
  question(turns.at(-1));
  $("log").scrollTop = $("log").scrollHeight;
  store();
  ask();
}

function again(index) {
  if (running) return;
  turns = turns.slice(0, index);
  draw();
  ask();
}

function grow(box) { box.style.height = "auto"; box.style.height = `${Math.min(160, box.scrollHeight + 2)}px`; }

export function startChat() {
  const log = $("log");
  if (!log || log.dataset.started) return; // its tab has not been opened yet, or all is there
  log.dataset.started = "";
  if (ready) { // Gradio has made the page anew: what is said goes on in it
    if (panel) serve(panel);
    draw();
    busy(Boolean(running));
    return;
  }
  ready = true;
  let kept = {};
  try { kept = JSON.parse(slipway.kept(KEY) || "{}"); } catch { kept = {}; }
  turns = Array.isArray(kept.turns) ? kept.turns : [];
  if (kept.system) $("system").value = kept.system;
  for (const [name, value] of Object.entries(kept.sampling || {})) { const one = document.querySelector(`[data-sampling="${CSS.escape(name)}"]`); if (one) one.value = value; }
  if (panel) serve(panel);
  choose(wantedServer || kept.server);
  draw();
}

export function choose(run) {
  if (!run) return;
  wantedServer = run;
  const list = $("server");
  if (list && [...list.options].some((one) => one.value === run)) { list.value = run; wantedServer = null; }
  if (ready) summary();
}

let panel = null;
on("panel", (told) => { panel = told; serve(told); });

function serve(told) {
  const any = told.serving.length > 0;
  const page = document.querySelector("[data-chat]"), empty = document.querySelector('[data-slot="chat-empty"]');
  if (!page) return;
  const opened = any && page.hidden;
  page.hidden = !any;
  empty.hidden = any;
  choose(wantedServer);
  if (opened || !turns.length) draw();
  summary();
}

document.addEventListener("submit", (event) => { if (event.target.matches?.("[data-chat-form]")) { event.preventDefault(); send(); } });
document.addEventListener("keydown", (event) => {
  if (event.target.matches?.("[data-chat-form] textarea") && event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener("input", (event) => {
  if (event.target.matches?.("[data-chat-form] textarea")) grow(event.target);
  if (event.target.matches?.("[data-sampling], [data-chat-system]")) { store(); summary(); }
});
document.addEventListener("change", (event) => { if (event.target.matches?.("[data-chat-server]")) { store(); summary(); if (!turns.length) draw(); } });
document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-chat-stop]")) running?.abort();
  if (event.target.closest?.("[data-chat-new]")) { running?.abort(); turns = []; store(); draw(); document.querySelector("[data-chat-form] textarea")?.focus(); }
});
