// "View code": this very request as curl, Python and the OpenAI client, and the prompt that the model is given.
import { element, fetched, icon, note } from "./parts.js";

const w = (key, values) => slipway.word(key, values);
const NAMES = { curl: "curl", python: "Python", openai: "OpenAI" };
let opener = null;

export async function showCode(name, request, button) {
  closeCode();
  opener = button;
  const drawer = element("aside", "drawer code-drawer");
  drawer.setAttribute("role", "dialog");
  drawer.setAttribute("aria-labelledby", "code-title");
  const head = element("header");
  const words = element("div", "grow");
  const title = element("h2", "", w("codeTitle"));
  title.id = "code-title";
  title.tabIndex = -1;
  words.append(title, element("div", "dim small", w("codeAbout", { name })));
  const close = element("button", "btn ghost icon");
  close.type = "button";
  close.setAttribute("aria-label", w("close"));
  close.append(icon("cross"));
  close.addEventListener("click", closeCode);
  head.append(words, close);
  const body = element("div", "scroll");
  body.dataset.tabs = "";
  drawer.append(head, body);
  drawer.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); closeCode(); } });
  document.body.append(drawer);
  title.focus({ preventScroll: true });
  try {
    const told = await fetched("/slipway/code", { method: "POST", body: JSON.stringify(request) });
    if (drawer.isConnected) fill(body, told);
  } catch (trouble) { body.append(note(trouble.title, [trouble.hint, ...(trouble.reasons || [])].filter(Boolean).join(" "))); }
}

export function closeCode() {
  const drawer = document.querySelector(".code-drawer");
  if (!drawer) return;
  drawer.remove();
  opener?.isConnected && opener.focus();
  opener = null;
}

function fill(body, told) {
  const prompt = { kind: "prompt", text: told.prompt, none: told.no_prompt, about: w("promptAbout") };
  const panes = [...told.programs, prompt];
  const bar = element("div", "seg");
  bar.setAttribute("role", "tablist");
  bar.setAttribute("aria-label", w("formats"));
  const boxes = panes.map((one, index) => {
    const tab = element("button", index ? "" : "on", NAMES[one.kind] || w("prompt"));
    tab.type = "button";
    tab.dataset.tab = one.kind;
    tab.id = `code-tab-${one.kind}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", index === 0);
    tab.setAttribute("aria-controls", `code-${one.kind}`);
    tab.tabIndex = index ? -1 : 0;
    bar.append(tab);
    return pane(one, index);
  });
  body.append(bar, ...boxes);
}

function pane(one, index) {
  const box = element("div", "pane stack tight");
  box.id = `code-${one.kind}`;
  box.hidden = index > 0;
  box.setAttribute("role", "tabpanel");
  box.setAttribute("aria-labelledby", `code-tab-${one.kind}`);
  if (one.none) { box.append(note(w("failed"), one.none)); return box; }
  const text = element("pre", "code", one.text);
  text.tabIndex = 0;
  text.setAttribute("aria-label", NAMES[one.kind] || w("prompt"));
  const row = element("div", "row");
  const copy = element("button", "btn sm");
  copy.type = "button";
  copy.append(icon("copy"), element("span", "", w("copy")));
  copy.addEventListener("click", () => slipway.copy(one.text));
  row.append(element("span", "small muted grow mono-words", one.needs || one.about || ""), copy);
  box.append(row, text);
  return box;
}
