// The list of kept conversations: search, pages, which one is open. On narrow pages it is a drawer.
import { element, fetched, note } from "./parts.js";

const $ = (name) => document.querySelector(`[data-chat-${name}]`);
const w = (key, values) => slipway.word(key, values);
let query = "";
let rows = [];
let told = { total: 0, more: false };
let opened = new Set();
let open = () => {};
let listed = () => {};
let timer = 0;
let asked = 0;

export function startList(whenChosen, whenListed) { open = whenChosen; listed = whenListed; refresh(); }
export function mark(ids) { opened = new Set(ids); draw(); }
export function refreshSoon() { clearTimeout(timer); timer = setTimeout(refresh, 150); }

async function refresh(before) {
  const mine = ++asked;
  const address = new URLSearchParams({ query });
  if (before) { address.set("at", before.updated_at); address.set("id", before.id); }
  try {
    const found = await fetched(`/slipway/conversations?${address}`);
    if (mine !== asked) return; // a later search is on its way
    rows = before ? [...rows, ...found.rows] : found.rows;
    told = found;
    draw();
    listed(query ? null : told.total);
  } catch (trouble) { if (mine === asked) $("rows")?.replaceChildren(note(trouble.title, trouble.hint)); }
}

function draw() {
  const list = $("rows");
  if (list) slipway.untouched(list, () => put(list));
}

function put(list) {
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.talk : null;
  list.replaceChildren(...rows.map(line));
  if (!rows.length) list.append(element("li", "muted small nothing", query ? w("noTalkFound") : w("noTalks")));
  if (told.more) {
    const item = element("li", "more");
    const more = element("button", "btn ghost sm", w("moreTalks"));
    more.type = "button";
    more.addEventListener("click", () => refresh(rows.at(-1)));
    item.append(more);
    list.append(item);
  }
  $("count").textContent = told.total ? told.total.toLocaleString("en") : "";
  if (focused) list.querySelector(`[data-talk="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function line(row) {
  const item = element("li");
  const button = element("button", "talk-row");
  button.type = "button";
  button.dataset.talk = row.id;
  if (opened.has(row.id)) button.setAttribute("aria-current", "true");
  const at = new Date(row.updated_at);
  const today = at.toDateString() === new Date().toDateString();
  const locale = slipway.language === "zh" ? "zh-CN" : "en-GB";
  const when = today ? at.toLocaleTimeString(locale, { hour: "2-digit", minute: "2-digit" }) : at.toLocaleDateString(locale, { day: "numeric", month: "short" });
  button.append(element("span", "name", row.name || w("newChat")), element("span", "sub num", `${row.about} · ${when}`));
  button.addEventListener("click", () => { toggle(false); open(row.id); });
  item.append(button);
  return item;
}

// --- the drawer ------------------------------------------------------------------------------------------------------

function toggle(on) {
  const list = $("list"), button = $("list-open");
  if (!list || list.classList.contains("on") === on) return;
  list.classList.toggle("on", on);
  button.setAttribute("aria-expanded", on);
  if (on) $("search").focus(); else if (list.contains(document.activeElement)) button.focus();
}

document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-chat-list-open]")) { toggle(true); refresh(); }
  if (event.target.closest?.("[data-chat-list-close]")) toggle(false);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && event.target.closest?.("[data-chat-list]")) toggle(false); });
document.addEventListener("input", (event) => {
  if (!event.target.matches?.("[data-chat-search]")) return;
  query = event.target.value;
  clearTimeout(timer);
  timer = setTimeout(refresh, 200);
});
addEventListener("slipway:tab", () => { if (document.documentElement.dataset.view === "chat") refresh(); });
