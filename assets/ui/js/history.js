// The History tab: filter, pages, what is ticked for a comparison, import. What the list says is the panel's.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const PAGE = 20;
const LARGEST = 16 * 1024 * 1024; // bytes of a deployment's file
let asked = { query: "", engine: "", group: "", before: "", first: 1 };
let pages = []; // the places of the pages before this one
let picked = []; // runs that are ticked, the first first
let timer = 0;

export function askHistory() { slipway.ask("history", asked); }
export const historyFilter = () => ({ ...asked });

function narrow(change) { asked = { ...asked, ...change, before: "", first: 1 }; pages = []; askHistory(); }

function turn(mark) {
  if (mark === asked.before) return; // pressed twice before its page came
  if (mark === "back") asked = { ...asked, ...(pages.pop() || { before: "", first: 1 }) };
  else { pages.push({ before: asked.before, first: asked.first }); asked = { ...asked, before: mark, first: asked.first + PAGE }; }
  askHistory();
}

// Ticks live here, not in the rows: they outlast a search and a turned page.
export function paintPicks() {
  for (const box of $$("[data-history-pick]")) {
    box.checked = picked.includes(box.dataset.historyPick);
    box.closest("tr").classList.toggle("sel", box.checked);
  }
  const button = $("[data-history-compare]");
  if (!button) return;
  button.disabled = picked.length !== 2;
  $("[data-history-compare-label]").textContent = picked.length ? slipway.word("compareN", { n: picked.length }) : slipway.word("compare");
}

export function forget(run) { picked = picked.filter((one) => one !== run); }

function back() {
  const slot = $('[data-slot="history-compared"]');
  if (!slot?.childElementCount) return;
  slipway.fill({ "history-compared": "" });
  askHistory();
  $("[data-history-compare]")?.focus();
}

async function take(file) {
  if (!file) return;
  if (file.size > LARGEST) { slipway.say({ title: slipway.word("tooLarge") }); return; }
  slipway.act("import", { file: await file.text() }, $("[data-history-import]"));
}

document.addEventListener("input", (event) => {
  const one = event.target;
  if (one.matches?.("[data-history-search]")) { clearTimeout(timer); timer = setTimeout(() => narrow({ query: one.value }), 250); }
});

document.addEventListener("change", (event) => {
  const one = event.target;
  if (one.matches?.("[data-history-engine]")) narrow({ engine: one.value });
  if (one.matches?.("[data-history-pick]")) {
    forget(one.dataset.historyPick);
    if (one.checked) picked.push(one.dataset.historyPick);
    paintPicks();
  }
  if (one.matches?.("[data-history-file]")) { take(one.files[0]); one.value = ""; }
});

document.addEventListener("click", (event) => {
  const hit = (selector) => event.target.closest?.(selector);
  let one;
  if ((one = hit("[data-history-group]"))) narrow({ group: one.dataset.historyGroup });
  else if ((one = hit("[data-history-page]"))) turn(one.dataset.historyPage);
  else if ((one = hit("[data-history-pin]"))) slipway.act("pin", { ...asked, run: one.dataset.historyPin, drawer: Boolean(one.closest(".drawer")) });
  else if (hit("[data-history-compare]")) slipway.act("compare", { run: picked[0], other: picked[1] }, hit("[data-history-compare]"));
  else if (hit("[data-history-back]")) back();
  else if (hit("[data-history-import]")) $("[data-history-file]").click();
  else if (hit(".pick-cell")) return;
  else if ((one = hit("[data-history-run]"))) { slipway.returnTo($("[data-history-open]", one)); slipway.act("open", { run: one.dataset.historyRun }); }
});

document.addEventListener("keydown", (event) => { if (event.key === "Escape" && document.documentElement.dataset.view === "history" && !$(".drawer") && !$("dialog[open]")) back(); });
