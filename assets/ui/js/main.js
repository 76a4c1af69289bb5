// The page's own logic: stages, fields, replies of the panel, dialogs. Decisions are the panel's; here is only showing.
import { on, watch } from "./stream.js";
import { logIs, openBest, openLog, startLog } from "./log.js";
import { choose, startChat } from "./chat.js";
import { drawMonitor } from "./monitor.js";
import "./side.js";
import { askHistory, forget, historyFilter, paintPicks } from "./history.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const html = document.documentElement;
const KEY = "slipway_draft";
const TABS = ["wizard", "chat", "monitor", "history"];
let kept = {};
try { kept = JSON.parse(slipway.kept(KEY) || "{}"); } catch { kept = {}; }
let stage = 0;
let reached = kept.stage || 1;
let failed = false;
let run = new URLSearchParams(location.search).get("run");
let booted = false;
let closing = null;
const busy = new Map(); // serial -> button, and the tab where it was pressed
let changes = 0; // how often a person changed what is in the form
const shownOf = {}; // the newest request whose answer each slot shows: what comes later of an older one takes nothing from it

// --- fields ----------------------------------------------------------------------------------------------------------

function draft() {
  const told = { ...(kept.draft || {}) };
  const lists = new Set();
  for (const one of $$("#sw-model [name], #sw-engine [name]")) {
    if (one.type === "radio") { if (one.checked) told[one.name === "choice" ? "choice" : one.name] = one.value; }
    else if (one.type === "checkbox" && one.value !== "true") {
      if (!lists.has(one.name)) { lists.add(one.name); told[one.name] = []; }
      if (one.checked) told[one.name].push(one.value);
    } else if (one.type === "checkbox") told[one.name] = one.checked;
    else told[one.name] = one.value;
  }
  return told;
}

function save() {
  kept = { draft: draft(), stage: Math.min(reached, 4) };
  slipway.keep(KEY, JSON.stringify(kept));
}

function complain(trouble) {
  clean();
  const name = trouble.field === "model" ? "model.id" : trouble.field;
  const field = name && $(`#nav [data-field="${CSS.escape(name)}"]`);
  if (!field || !field.getClientRects().length) {
    const fold = field?.closest("details");
    if (fold) fold.open = true;
    if (!field || !field.getClientRects().length) return false;
  }
  const error = document.createElement("span");
  error.className = "err";
  error.id = `e-${name}`;
  error.setAttribute("role", "alert");
  error.textContent = [trouble.title.replace(/^[\w.]+[:：]\s*/, ""), trouble.hint].filter(Boolean).join(" ");
  field.append(error);
  const control = $("input, textarea, select", field);
  control?.classList.add("is-err");
  control?.setAttribute("aria-invalid", "true");
  control?.setAttribute("aria-errormessage", error.id);
  return control || field;
}

function clean() {
  $$("#nav [data-field] > .err").forEach((one) => one.remove());
  $$("#nav .is-err").forEach((one) => { one.classList.remove("is-err"); one.removeAttribute("aria-invalid"); });
}

// --- where we are ----------------------------------------------------------------------------------------------------

function show(number, { focus = true, away = false } = {}) {
  stage = number;
  reached = Math.max(reached, Math.min(number, 4));
  html.dataset.at = String(number);
  paintStepper();
  if (number === 5) place({ run }); else { place({ run: null }); follow(null); }
  if (booted) save();
  if (away) return;
  scrollTo({ top: 0 });
  if (focus) $(`#sw-${["", "detect", "model", "engine", "review", "launch"][number]} h1`)?.focus({ preventScroll: true });
}

function paintStepper() {
  $$(".step-button").forEach((button, i) => {
    const n = i + 1;
    const can = n <= reached || (n === 5 && Boolean(run));
    button.disabled = !can;
    button.classList.toggle("active", n === stage);
    button.classList.toggle("completed", n < stage);
    button.classList.toggle("pending", n > stage);
    button.classList.toggle("failed", n === 5 && stage === 5 && failed);
    if (n === stage) button.setAttribute("aria-current", "step"); else button.removeAttribute("aria-current");
  });
  $$(".step-connector").forEach((line, i) => line.classList.toggle("completed", i + 1 < stage));
}

function place(change) {
  const url = new URL(location);
  for (const [name, value] of Object.entries(change)) if (value) url.searchParams.set(name, value); else url.searchParams.delete(name);
  url.searchParams.delete("lang");
  if (url.href !== location.href) history.replaceState(null, "", url);
}

function tabButtons() { return $$('#nav > .tab-wrapper > .tab-container:not(.visually-hidden) button[role="tab"]'); }
function openTab(name) {
  const button = tabButtons()[TABS.indexOf(name)];
  if (button && button.getAttribute("aria-selected") !== "true") button.click(); else tabShown(name);
}
function tabShown(name) {
  if (name !== html.dataset.view) closeDrawer();
  html.dataset.view = name;
  place({ tab: name === "wizard" ? null : name });
  watch({ monitor: name === "monitor" });
  if (name === "history" && booted) askHistory();
  dispatchEvent(new Event("slipway:tab"));
}

function follow(id) {
  if (!id) { if (logIs().run) { openLog(null, null); } watch({ run: null, step: null }); return; }
  if (logIs().run !== id) {
    $('details[data-commands="5"]')?.removeAttribute("open");
    for (const name of ["launch-head", "launch-steps", "launch-result", "commands-5"]) { delete latest[name]; const slot = $(`[data-slot="${name}"]`); slot?.replaceChildren(); slot?.removeAttribute("data-was"); }
    openLog(id, null);
  }
  watch({ run: id });
}

// `away`: the person has opened another tab since, and stays there.
function go(where, id, away = false) {
  if (where.startsWith("stage:")) { const number = Number(where.slice(6)); if (!away) openTab("wizard"); if (number === 5) openRun(run, away); else show(number, { away }); }
  else if (where.startsWith("run:")) openRun(where.slice(4), away);
  else if (where === "run") openRun(id);
  else if (where === "chat") { choose(id); openTab("chat"); $("[data-chat-form] textarea")?.focus(); }
  else if (TABS.includes(where)) { openTab(where); if (where === "wizard" && stage === 5) show(1); }
}

function openRun(id, away = false) {
  if (!id) return;
  run = id;
  failed = false;
  if (!away) { closeDrawer(); openTab("wizard"); }
  show(5, { away });
  follow(id);
}

// A run that was deleted: there is nothing to watch of it.
function leave(id) {
  if (id !== run) return;
  run = null;
  if (stage === 5) show(1, { away: true }); else paintStepper();
}

// --- the panel's words -----------------------------------------------------------------------------------------------

const latest = {}; // what each slot shows: Gradio makes a tab's parts only when the tab is first opened
const MARKS = ["data-log-step", "data-do", "data-go", "data-copy", "data-history-group", "data-history-page", "data-history-pick", "data-history-pin", "data-history-open"];
// What finds a part again that is made anew.
function markOf(one) {
  const told = MARKS.map((key) => one.getAttribute(key) && `[${key}="${CSS.escape(one.getAttribute(key))}"]${one.dataset.run ? `[data-run="${CSS.escape(one.dataset.run)}"]` : ""}`).find(Boolean);
  return told || (one.type === "radio" ? `[name="${one.name}"][value="${CSS.escape(one.value)}"]` : null);
}
slipway.fill = (slots) => {
  for (const [name, made] of Object.entries(slots || {})) {
    latest[name] = made;
    for (const slot of $$(`[data-slot="${name}"]`)) slipway.untouched(slot, () => put(slot, latest[name]));
  }
};

function put(slot, made) {
  if (slot.dataset.was === made && slot.childElementCount) return;
  const focused = slot.contains(document.activeElement) ? document.activeElement : null;
  const mark = focused && markOf(focused);
  const chosen = slot.tagName === "SELECT" ? slot.value : null;
  slot.innerHTML = made; // made by the panel, escaped there
  slot.dataset.was = made;
  if (chosen && [...slot.options].some((one) => one.value === chosen)) slot.value = chosen;
  if (mark) $(mark, slot)?.focus({ preventScroll: true });
  dress();
  paintPicks();
}

let mounting = 0;
new MutationObserver(() => {
  if (mounting) return;
  mounting = requestAnimationFrame(() => {
    mounting = 0;
    if (!booted) return;
    // What comes with content of its own is newer than what was put there before.
    for (const slot of $$("[data-slot][data-adopt]:not([data-was])")) slot.dataset.was = latest[slot.dataset.slot] = slot.innerHTML;
    const bare = [...new Set($$("[data-slot]:not([data-was])").map((slot) => slot.dataset.slot))].filter((name) => name in latest);
    if (bare.length) slipway.fill(Object.fromEntries(bare.map((name) => [name, latest[name]])));
    startChat();
    startLog();
  });
}).observe(document.documentElement, { childList: true, subtree: true });

function dress() {
  const now = Date.now();
  for (const one of $$("[data-since]")) {
    const seconds = Math.max(0, Math.floor((now - Date.parse(one.dataset.since)) / 1000));
    const minutes = Math.floor(seconds / 60);
    const words = "clock" in one.dataset ? `${minutes}:${String(seconds % 60).padStart(2, "0")}` : slipway.word(minutes ? "soFarMinutes" : "soFar", { m: minutes, s: seconds % 60 });
    if (one.textContent !== words) one.textContent = words;
  }
  for (const one of $$("time[datetime]:not([data-local])")) {
    const at = new Date(one.getAttribute("datetime"));
    const today = at.toDateString() === new Date().toDateString();
    const locale = slipway.language === "zh" ? "zh-CN" : "en-GB";
    one.textContent = today ? at.toLocaleTimeString(locale, { hour: "2-digit", minute: "2-digit" }) : at.toLocaleString(locale, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
    one.title = at.toLocaleString(locale);
    one.dataset.local = "";
  }
}
setInterval(dress, 1000);

// With the next frame, when Gradio has put in what came with it; a page that nobody sees gets no frames, and goes on too.
function nextFrame(act) {
  let over = false;
  const once = () => { if (!over) { over = true; act(); } };
  requestAnimationFrame(once);
  setTimeout(once, 250);
}

// The slots of an answer that no later request has filled and no hand has closed. A new key is told in its one answer.
function newest({ do: what, serial, slots }) {
  const told = Object.entries(slots || {}).filter(([name]) => what === "key-make" || !(shownOf[name] > serial));
  for (const [name] of told) shownOf[name] = serial;
  return Object.fromEntries(told);
}

slipway.onReply((told) => {
  const { button, view } = busy.get(told.serial) || {};
  busy.delete(told.serial);
  if (button) { button.classList.remove("is-busy"); button.removeAttribute("aria-busy"); }
  nextFrame(() => {
    if (told.do === "boot" && !told.go) { lost("boot", told.trouble); setTimeout(boot, 3000); return; }
    if (told.draft) { kept = { draft: told.draft, stage: 2 }; slipway.keep(KEY, JSON.stringify(kept)); reached = 2; refreshForm(told.draft); }
    slipway.fill(newest(told));
    if (told.do === "model") settle();
    if (told.do === "boot") begin(told);
    if (told.go && told.do !== "boot") go(told.go, null, view !== html.dataset.view);
    if (told.gone) leave(told.gone);
    if (told.toast) toast(told.toast);
    if (told.focus) $(told.focus)?.focus({ preventScroll: true });
    if (told.closed && !$(".drawer")) focusBack();
    if (told.do === "open") { $(".drawer h2")?.focus({ preventScroll: true }); }
    if (told.do === "compare") { scrollTo({ top: 0 }); $(".compare h1")?.focus({ preventScroll: true }); }
    if (told.do === "delete") closing = null;
    if (told.notice) say(told.notice);
    if (told.trouble) {
      const where = complain(told.trouble);
      const typing = ["model-input", "engine-input"].includes(told.do);
      if (where && !typing) where.focus?.();
      if (!where && !typing) say(told.trouble);
    } else if (["model", "engine", "review", "model-input", "engine-input"].includes(told.do)) clean();
    if (["boot", "model-input", "engine-input", "model", "engine"].includes(told.do)) for (const one of $$("details[data-commands][open]")) askCommands(one);
    if (stage === 0) return;
    paintStepper();
    dress();
  });
});

// Values that a person typed live in the elements, not in their attributes: put the new ones there.
function refreshForm(values) {
  for (const one of $$("#sw-model [name], #sw-engine [name]")) {
    const value = values[one.name];
    if (value === undefined) continue;
    if (one.type === "radio") one.checked = one.value === value;
    else if (one.type === "checkbox") one.checked = Array.isArray(value) ? value.includes(one.value) : Boolean(value);
    else one.value = value;
  }
}

// Gradio patches the cards that are there: a radio button keeps being on, whichever card it belongs to now.
function settle() {
  for (const one of $$('#sw-engine [name="choice"]')) one.checked = one.defaultChecked;
}

function begin(told) {
  booted = true;
  lost("boot", null);
  startChat();
  startLog();
  html.dataset.ready = "";
  watch({ monitor: told.tab === "monitor" });
  if (told.go.startsWith("run:")) { run = told.go.slice(4); stage = 5; show(5, { focus: false }); follow(run); }
  else { reached = Math.max(1, Math.min(kept.stage || 1, 4)); show(Number(told.go.slice(6)), { focus: false }); }
  openTab(told.tab || "wizard");
}

on("panel", (told) => {
  if (told.version !== slipway.version) { location.reload(); return; } // the panel was started anew with other files
  slipway.fill(told.slots);
});
on("run", (told) => {
  if (told.run !== run) return;
  const before = failed;
  failed = ["failed", "lost"].includes(told.state);
  html.dataset.state = told.state;
  slipway.fill(told.slots);
  const name = $("[data-log-name]");
  openBest(told.run, told.best);
  if (name) name.textContent = told.titles[logIs().step] || "";
  for (const item of $$("[data-log-step]")) item.closest("li").classList.toggle("shown", item.dataset.logStep === logIs().step);
  if (before !== failed) paintStepper();
});

// What keeps the page from going on, by where it was met; said on top of the page until the last of it is over.
const losses = new Map();
function lost(where, trouble) {
  if (trouble) losses.set(where, trouble); else losses.delete(where);
  $("body > .lost")?.remove();
  if (!losses.size) return;
  const note = document.createElement("div");
  note.className = "lost";
  note.setAttribute("role", "status");
  const { title, hint } = [...losses.values()].at(-1);
  note.textContent = [title, hint].filter(Boolean).join(" ");
  document.body.append(note);
}
const gone = () => ({ title: slipway.word("gone") });
on("gone", (id) => { leave(id); toast(slipway.word("deleted")); });
let lostTimer = 0;
on("state", (told) => {
  if (told !== "lost") { clearTimeout(lostTimer); lostTimer = 0; lost("stream", null); return; }
  lostTimer ||= setTimeout(() => lost("stream", gone()), 2500);
});
addEventListener("slipway:silent", (event) => lost("ask", event.detail ? gone() : null));

// --- asking ----------------------------------------------------------------------------------------------------------

let inputTimer = 0;
let inputOf = null; // the form in which was typed what is not sent yet

function ask(what, data, button) {
  if (button?.classList.contains("is-busy")) return;
  const here = () => [stage, run, changes].join(); // whoever has gone on since, or changed the form, is not taken back
  const from = here();
  const serial = slipway.ask(what, data, () => here() === from);
  busy.set(serial, { button, view: html.dataset.view });
  if (button) { button.classList.add("is-busy"); button.setAttribute("aria-busy", "true"); }
  return serial;
}

slipway.act = ask;
slipway.returnTo = (element) => { closing = element; };

document.addEventListener("submit", (event) => {
  const form = event.target.closest?.("[data-form]");
  if (!form) return;
  event.preventDefault();
  sendInput();
  save();
  ask(form.dataset.form, { draft: draft() }, event.submitter || $('[type="submit"]', form));
});

document.addEventListener("input", (event) => {
  const one = event.target;
  const form = one.closest?.("[data-form]");
  if (!form) return;
  if (reached > 2 && form.dataset.form === "model") { reached = 2; paintStepper(); }
  if (reached > 3 && form.dataset.form === "engine") { reached = 3; paintStepper(); }
  changes += 1;
  save();
  clearTimeout(inputTimer);
  const wait = one.type === "radio" || one.type === "checkbox" ? 0 : 350;
  inputOf = form.dataset.form;
  inputTimer = setTimeout(sendInput, wait);
});

function sendInput() {
  clearTimeout(inputTimer);
  if (inputOf) slipway.ask(inputOf === "engine" ? "engine-input" : "model-input", { draft: draft() });
  inputOf = null;
}

const askCommands = (fold) => { if (fold.getClientRects().length) slipway.ask("commands", { stage: fold.dataset.commands, draft: draft(), run }); };
document.addEventListener("toggle", (event) => { if (event.target.matches?.("details[data-commands]") && event.target.open) askCommands(event.target); }, true);

document.addEventListener("click", (event) => {
  const hit = (selector) => event.target.closest?.(selector);
  let one;
  if ((one = hit("[data-language]"))) slipway.setLanguage(one.dataset.language);
  else if (hit("[data-theme-switch]")) slipway.setTheme();
  else if ((one = hit("[data-stage]"))) { const n = Number(one.dataset.stage); if (n === 5) openRun(run); else if (n === 4) slipway.ask("engine", { draft: draft() }); else show(n); } // 4: what the plan finds done may have changed
  else if ((one = hit("[data-change]"))) change(one);
  else if ((one = hit("[data-do]"))) act(one);
  else if ((one = hit("[data-go]"))) go(one.dataset.go, one.dataset.run);
  else if ((one = hit("[data-copy]"))) slipway.copy($$(one.dataset.copy).map((part) => part.textContent).join("\n"));
  else if ((one = hit("[data-tab]"))) pane(one);
  else if (hit("[data-drawer-close]")) closeDrawer();
  else if ((one = hit('#nav > .tab-wrapper button[role="tab"]'))) { const index = tabButtons().indexOf(one); if (index >= 0) setTimeout(() => tabShown(TABS[index]), 0); }
});

async function act(button) {
  const told = { run: button.dataset.run, origin: location.origin };
  if (button.dataset.confirm && !(await confirmed(button))) return;
  if (["api", "keys", "watching", "alerting"].includes(button.dataset.do) && !button.closest(".drawer")) closing = button;
  if (button.dataset.do === "new") { run = null; show(1); return; }
  if (button.dataset.do === "delete") { Object.assign(told, historyFilter()); forget(told.run); }
  ask(button.dataset.do, told, button);
}

// A change that makes the deployment fit: into the form, and the stage is judged anew; what is open in it stays open.
function change(button) {
  kept.draft = { ...draft(), ...JSON.parse(button.dataset.change) };
  refreshForm(kept.draft);
  reached = Math.min(reached, stage);
  changes += 1;
  save();
  paintStepper();
  if (stage === 4) ask("model", { draft: draft() }, button);
  else slipway.ask(stage === 2 ? "model-input" : "engine-input", { draft: draft() });
}

function pane(tab) {
  const box = tab.closest("[data-tabs]");
  for (const one of $$("[data-tab]", box)) { const chosen = one === tab; one.classList.toggle("on", chosen); one.setAttribute("aria-selected", chosen); one.tabIndex = chosen ? 0 : -1; $(`#${one.getAttribute("aria-controls")}`).hidden = !chosen; }
}

document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.("[data-tab]");
  if (tab && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    const tabs = $$("[data-tab]", tab.parentElement);
    const next = tabs[(tabs.indexOf(tab) + (event.key === "ArrowRight" ? 1 : -1) + tabs.length) % tabs.length];
    next.focus();
    pane(next);
  }
  if (event.key === "Escape" && $(".drawer") && !$("dialog[open]")) closeDrawer();
});

function closeDrawer() {
  for (const name of ["drawer", "side"]) shownOf[name] = slipway.newest() + 1; // nor does an answer open it that is on its way
  const drawer = $(".drawer");
  if (!drawer) return;
  drawer.remove();
  focusBack();
}

function focusBack() { // what opened the drawer may have been made anew since
  const mark = closing && markOf(closing);
  (closing?.isConnected ? closing : mark && $(mark))?.focus?.();
  closing = null;
}

// --- dialogs ---------------------------------------------------------------------------------------------------------

function dialog(title, body, buttons) {
  return new Promise((resolve) => {
    const box = document.createElement("dialog");
    box.className = "dialog";
    box.setAttribute("role", "alertdialog");
    const head = document.createElement("h2");
    head.textContent = title;
    head.id = "dialog-title";
    box.setAttribute("aria-labelledby", "dialog-title");
    box.append(head);
    for (const words of body.filter(Boolean)) { const line = document.createElement("p"); line.textContent = words; box.append(line); }
    const row = document.createElement("div");
    row.className = "row";
    for (const [label, value, looks] of buttons) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = `btn ${looks}`;
      button.textContent = label;
      button.addEventListener("click", () => { box.close(value); });
      row.append(button);
    }
    box.append(row);
    box.addEventListener("close", () => { box.remove(); resolve(box.returnValue === "yes"); });
    document.body.append(box);
    box.showModal();
    $("button", row).focus();
  });
}

const confirmed = (button) => dialog(button.dataset.confirm, [button.dataset.confirmText], [[button.dataset.confirmNo, "no", ""], [button.dataset.confirmYes, "yes", "stop solid"]]);
const say = slipway.say = (trouble) => dialog(trouble.title, [trouble.hint, ...(trouble.reasons || []).map((reason) => `· ${reason}`)], [[slipway.word("ok"), "no", ""]]);

function toast(words) {
  $(".toast")?.remove();
  const box = document.createElement("div");
  box.className = "toast";
  box.setAttribute("role", "status");
  box.textContent = words;
  document.body.append(box);
  setTimeout(() => box.remove(), 4000);
}

Object.assign(slipway, { dialog, toast });
slipway.copy = async (words) => {
  try { await navigator.clipboard.writeText(words); } catch {
    const box = document.createElement("textarea"); // off loopback without TLS there is no clipboard object
    box.value = words;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  toast(slipway.word("copied"));
};

addEventListener("slipway:theme", drawMonitor);
const boot = () => slipway.ask("boot", { run, tab: new URLSearchParams(location.search).get("tab"), draft: kept.draft, stage: kept.stage });
boot();
