// The Chat page: whom to ask and how, one conversation or two side by side, and which of the kept ones is open.
import { closeCode, showCode } from "./code.js";
import { element, fetched, ms } from "./parts.js";
import { on } from "./stream.js";
import { Talk } from "./talk.js";
import { mark, refreshSoon, startList } from "./talks.js";

const $ = (name) => document.querySelector(`[data-chat-${name}]`);
const KEY = "slipway_chat";
const UNSENT = "slipway_unsent"; // of this window: what is typed outlasts a page that is loaded again
const w = (key, values) => slipway.word(key, values);
const SELECTS = ["server", "other"];
const LISTS = ["stop", "bad_words"]; // one a line
const without = new Map(); // of servers that others started: why they cannot use bad words, or ""
let ready = false;
let panel = null;
let wantedServer = null; // chosen, and not there yet or for a while
let renamed = []; // conversations that the open field names
let wish = 0; // counts what a person wanted to see: a conversation that comes after a later wish is not shown
let many = 0; // conversations that are kept: they can be read while nothing runs

// --- whom and how ----------------------------------------------------------------------------------------------------

const chosen = (which) => $(SELECTS[which])?.value || "";
const nameOf = (which) => (chosen(which) ? $(SELECTS[which]).selectedOptions[0]?.textContent.trim() || "" : "");
const unable = (which) => $(SELECTS[which])?.selectedOptions[0]?.dataset.noBadWords || without.get(chosen(which)) || "";
const raw = () => Object.fromEntries([...document.querySelectorAll("[data-sampling]")].map((one) => [one.dataset.sampling, one.value]));

// Bad words are not sent to a server that cannot use them; the field says so.
function sampling(which) {
  const told = {};
  for (const [name, value] of Object.entries(raw())) {
    if (!value.trim() || (name === "bad_words" && unable(which))) continue;
    if (LISTS.includes(name)) told[name] = value.split("\n").filter((line) => line);
    else told[name] = Number.isNaN(Number(value)) ? value : Number(value);
  }
  return told;
}

const settings = () => JSON.stringify([system(), raw()]);
const system = () => $("system").value.trim();
const field = () => document.querySelector("[data-chat-form] textarea");

function steer(conversation) {
  $("system").value = conversation.system || "";
  for (const one of document.querySelectorAll("[data-sampling]")) {
    const value = conversation.sampling?.[one.dataset.sampling];
    one.value = value == null ? "" : Array.isArray(value) ? value.join("\n") : value;
  }
}

// --- the conversations that are shown --------------------------------------------------------------------------------

const talks = [0, 1].map((which) => new Talk({
  server: () => chosen(which),
  name: () => nameOf(which),
  settings: () => ({ system: system(), sampling: sampling(which) }),
  twin: () => (which ? talks[0].conversation?.id : null),
  hello: () => (which && talks[0].thread.length ? w("fresh", { name: nameOf(1) }) : null),
  said: (words) => { $("said").textContent = shown().length > 1 ? `${nameOf(which)}: ${words}` : words; },
  code: (messages, button) => code(which, messages, button),
  changed,
  refused: (words) => { if (words && !field().value.trim()) write(words); },
}));
const shown = () => (chosen(1) ? talks : talks.slice(0, 1));
const busy = () => shown().some((talk) => talk.running);

function changed() {
  const open = talks.map((talk) => talk.conversation?.id).filter(Boolean);
  store();
  mark(open);
  refreshSoon();
  tools();
  summary();
}

function store() {
  const id = talks[0].conversation?.id || null;
  slipway.keep(KEY, JSON.stringify({ talk: id, server: chosen(0), system: $("system")?.value || "", sampling: raw() }));
  const url = new URL(location);
  if (id) url.searchParams.set("talk", id); else url.searchParams.delete("talk");
  if (url.href !== location.href) history.replaceState(null, "", url);
}

function place() {
  const host = $("panes");
  const boxes = shown().map((talk) => talk.box);
  if (host.childElementCount !== boxes.length || boxes.some((box, at) => host.children[at] !== box)) host.replaceChildren(...boxes); // what is put in again loses focus and place
  host.classList.toggle("two", shown().length > 1);
  for (const talk of shown()) { talk.hello(); talk.title(); }
  bans();
}

// Bad words: open where a server that is shown can use them; of each that cannot it is said why.
function bans() {
  const whys = shown().map((_, which) => unable(which));
  const line = $("words");
  document.querySelector('[data-sampling="bad_words"]').disabled = whys.every(Boolean);
  line.textContent = whys.map((why, which) => (why && whys.length > 1 ? `${nameOf(which)}: ${why}` : why)).filter(Boolean).join(" ") || line.dataset.can;
}

function tools() {
  const one = talks[0].conversation;
  $("title").textContent = one?.name || w("newChat");
  $("tools").hidden = !one;
  $("send").hidden = busy();
  $("stop").hidden = !busy();
  for (const talk of talks) talk.title();
  const links = shown().filter((talk) => talk.conversation).flatMap((talk) => [["Markdown", "markdown"], ["JSON", "json"]].map(([label, kind]) => {
    const link = element("a", "btn ghost sm", shown().length > 1 ? `${label} · ${talk.hooks.name()}` : label);
    link.href = `/slipway/conversations/${talk.conversation.id}/export?as=${kind}&lang=${slipway.language}`;
    link.setAttribute("download", "");
    return link;
  }));
  $("export-list").replaceChildren(...links);
}

// Opens a kept conversation, and the one that was asked the same beside it. With `whom` only one with that server: whoever
// has just chosen a server begins anew with it.
async function open(id, quiet = false, whom = "") {
  const mine = ++wish;
  const before = settings();
  try {
    const found = await fetched(`/slipway/conversations/${encodeURIComponent(id)}`);
    if (mine !== wish) return;
    if (whom && found.run !== whom) { begin(); return; }
    const other = found.twin ? await fetched(`/slipway/conversations/${encodeURIComponent(found.twin)}`).catch(() => null) : null;
    if (mine !== wish) return;
    const there = (run, which) => [...$(SELECTS[which]).options].some((one) => one.value === run);
    if (settings() === before) steer(found); // else a person has just set them
    wantedServer = null;
    renaming(false);
    if (there(found.run, 0)) $("server").value = found.run;
    $("other").value = other && there(other.run, 1) ? other.run : "";
    talks[0].open(found);
    if (other && chosen(1)) talks[1].open(other); else talks[1].clear();
    place();
    if (!there(found.run, 0)) talks[0].log.append(element("p", "muted small", w("serverGone", { gone: found.run || "–", name: nameOf(0) })));
    changed();
  } catch (trouble) {
    if (mine !== wish) return;
    if (trouble.status === 404) { begin(); return; } // deleted in another window
    if (!quiet) slipway.dialog(trouble.title, [trouble.hint], [[w("ok"), "no", ""]]);
  }
}

function begin() {
  wish += 1;
  renaming(false);
  for (const talk of talks) talk.clear();
  place();
  changed();
}

async function send() {
  const box = field();
  const words = box.value.trim();
  if (!words || busy() || !chosen(0)) return;
  const mine = ++wish;
  wantedServer = null;
  write("");
  const [first, second] = shown();
  const kept = first.ask({ text: words });
  if (!second) return;
  if (!first.conversation) await kept; // the second one is told beside which it stands
  if (mine !== wish || !chosen(1)) return;
  second.ask({ text: words });
}

function code(which, messages, button) {
  const words = field().value.trim();
  const asked = messages.length ? messages : [{ role: "user", content: words || "Hello" }];
  const turns = [...(system() ? [{ role: "system", content: system() }] : []), ...asked];
  showCode(nameOf(which), { server: chosen(which), chat: { messages: turns, sampling: sampling(which) } }, button);
}

async function remove() {
  const found = shown().map((talk) => talk.conversation).filter(Boolean);
  if (!found.length || !(await slipway.dialog(w("deleteTalk", { name: found[0].name || w("newChat") }), [w("deleteTalkText")], [[w("keep"), "no", ""], [w("delete"), "yes", "stop solid"]]))) return;
  const mine = wish;
  try {
    for (const one of found) await fetched(`/slipway/conversations/${one.id}`, { method: "DELETE" });
    slipway.toast(w("deleted"));
    if (mine !== wish) { refreshSoon(); return; } // another was opened or begun meanwhile
    begin();
    field()?.focus();
  } catch (trouble) { slipway.dialog(trouble.title, [trouble.hint], [[w("ok"), "no", ""]]); }
}

function renaming(on) {
  const here = $("rename").contains(document.activeElement);
  $("rename").hidden = !on;
  $("title").hidden = on;
  if (!on) { if (here) $("rename-open").focus(); return; }
  renamed = shown().map((talk) => talk.conversation?.id).filter(Boolean);
  const box = $("rename").querySelector("input");
  box.value = talks[0].conversation?.name || "";
  box.focus();
  box.select();
}

async function rename() {
  const name = $("rename").querySelector("input").value.trim();
  try {
    for (const id of name ? renamed : []) {
      const told = await fetched(`/slipway/conversations/${id}`, { method: "PATCH", body: JSON.stringify({ name }) });
      for (const { conversation } of talks) if (conversation?.id === id) conversation.name = told.name;
    }
    renaming(false);
    changed();
  } catch (trouble) { slipway.dialog(trouble.title, [trouble.hint], [[w("ok"), "no", ""]]); }
}

function summary() {
  const told = talks[0].thread.filter((turn) => turn.figures?.seconds != null).map((turn) => turn.figures);
  const middle = (values) => { const sorted = values.filter((one) => one != null).sort((a, b) => a - b); const half = sorted.length >> 1; return !sorted.length ? null : sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2; };
  const set = (name, value) => { const one = document.querySelector(`[data-chat-figure="${name}"]`); if (one) one.textContent = value; };
  const first = middle(told.map((one) => one.ttft)), speed = middle(told.map((one) => one.speed));
  const last = told.at(-1);
  set("answers", told.length || "–");
  set("ttft", first == null ? "–" : ms(first));
  set("glance", [first != null && `TTFT ${ms(first)}`, speed != null && `${speed.toFixed(speed < 100 ? 1 : 0)} tok/s`].filter(Boolean).join(" · "));
  set("speed", speed == null ? "–" : `${speed.toFixed(1)} tok/s`);
  set("context", last?.prompt_tokens != null ? `${(last.prompt_tokens + last.tokens).toLocaleString("en")} ${w("tokens")}` : "–");
  const values = raw();
  $("summary").textContent = [values.temperature && `${w("temperature")} ${values.temperature}`, values.top_p && `top-p ${values.top_p}`].filter(Boolean).join(" · ") || w("defaults");
  $("system-summary").textContent = system() ? w("set") : w("none");
  const box = field();
  $("send").disabled = !chosen(0);
  if (box) box.placeholder = !chosen(0) ? w("noServer") : w("ask", { name: shown().map((_, which) => nameOf(which)).join(" + ") });
}

// What is known of the chosen server; of one that others started, whether it can be talked to at all.
async function about() {
  const option = $("server").selectedOptions[0];
  const line = $("about");
  line.textContent = option?.dataset.about || "";
  line.classList.remove("danger");
  try { await look(option); } catch (trouble) {
    if (chosen(0) !== option.value) return;
    line.textContent = [trouble.title, ...(trouble.reasons || []), trouble.hint].filter(Boolean).join(" ");
    line.classList.add("danger");
  }
}

// Asks a server that others started what it is. Throws what is in the way of talking to it.
async function look(option) {
  if (!option || !("watched" in option.dataset)) return;
  const found = await fetched(`/slipway/servers/${encodeURIComponent(option.value)}`);
  without.set(option.value, found.no_bad_words || "");
  bans();
}

function write(words) {
  field().value = words;
  grow(field());
  unsent(words);
}

function unsent(words) { try { sessionStorage.setItem(UNSENT, words); } catch { /* private window: not kept */ } }

function grow(box) { box.style.height = "auto"; if (box.scrollHeight) box.style.height = `${Math.min(160, box.scrollHeight + 2)}px`; }

export function startChat() {
  const host = $("panes");
  if (!host || host.dataset.started) return; // its tab has not been opened yet, or all is there
  host.dataset.started = "yes";
  try { write(sessionStorage.getItem(UNSENT) || ""); } catch { /* private window: not kept */ }
  if (ready) { // Gradio has made the page anew: what is said goes on in it
    if (panel) serve(panel);
    place();
    changed();
    return;
  }
  const whom = wantedServer || "";
  ready = true;
  let kept = {};
  try { kept = JSON.parse(slipway.kept(KEY) || "{}"); } catch { kept = {}; }
  if (kept.system) $("system").value = kept.system;
  for (const [name, value] of Object.entries(kept.sampling || {})) { const one = document.querySelector(`[data-sampling="${CSS.escape(name)}"]`); if (one) one.value = value; }
  if (panel) serve(panel);
  choose(whom || kept.server);
  place();
  startList(open, (total) => { if (total !== null && total !== many) { many = total; if (panel) serve(panel); } });
  const id = new URLSearchParams(location.search).get("talk") || kept.talk;
  if (id) open(id, true, whom); else changed();
  about();
}

export function choose(run) {
  if (!run) return;
  wantedServer = run;
  const list = $("server");
  if (list && [...list.options].some((one) => one.value === run)) { list.value = run; if (ready) wantedServer = null; }
  if (ready) { place(); summary(); about(); }
}

on("panel", (told) => { // this is before main.js, which fills the lists, and `serve` behind it
  const before = chosen(0);
  panel = told;
  queueMicrotask(() => {
    if (before && before !== chosen(0)) wantedServer = before; // it may only be starting again
    serve(told);
  });
});

function serve(told) {
  const any = told.serving.length > 0 || many > 0;
  const page = document.querySelector("[data-chat]"), empty = document.querySelector('[data-slot="chat-empty"]');
  if (!page) return;
  page.hidden = !any;
  empty.hidden = any;
  choose(wantedServer);
  if (ready) { place(); summary(); }
}

document.addEventListener("submit", (event) => {
  if (event.target.matches?.("[data-chat-form]")) { event.preventDefault(); send(); }
  if (event.target.matches?.("[data-chat-rename]")) { event.preventDefault(); rename(); }
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches?.("[data-chat-form] textarea") && event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  if (event.key === "Escape" && event.target.closest?.("[data-chat-rename]")) renaming(false);
  const menu = event.key === "Escape" && event.target.closest?.("[data-chat-export][open]");
  if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
});
document.addEventListener("input", (event) => {
  if (event.target.matches?.("[data-chat-form] textarea")) { grow(event.target); unsent(event.target.value); }
  if (event.target.matches?.("[data-sampling], [data-chat-system]")) { store(); summary(); }
});
document.addEventListener("change", (event) => {
  if (event.target.matches?.("[data-chat-server]")) { wantedServer = null; store(); place(); summary(); about(); }
  if (event.target.matches?.("[data-chat-other]")) { talks[1].clear(); place(); changed(); look($("other").selectedOptions[0]).catch(() => {}); } // what is in the way is told when it is asked
});
document.addEventListener("click", (event) => {
  const hit = (name) => event.target.closest?.(`[data-chat-${name}]`);
  if (hit("stop")) { wish += 1; for (const talk of shown()) talk.stop(); }
  if (hit("new")) { begin(); field()?.focus(); }
  if (hit("rename-open")) renaming(true);
  if (hit("delete")) remove();
  const button = hit("code");
  if (button) { const turns = talks[0].thread; code(0, talks[0].until(turns.at(-1)?.role === "assistant" ? turns.length - 1 : turns.length), button); }
  const menu = $("export");
  if (menu?.open && (!menu.contains(event.target) || event.target.closest("a"))) menu.open = false;
});
addEventListener("slipway:tab", () => closeCode());
