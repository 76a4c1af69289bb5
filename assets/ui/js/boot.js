// Language, theme, and the door to the panel. In the page itself, before anything of Gradio's, which takes the words of its
// own parts from the browser's language and hands the page's parts over later.
(() => {
  "use strict";
  const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* private window: not kept */ } };
  const cookie = (name) => document.cookie.split("; ").find((part) => part.startsWith(`${name}=`))?.split("=")[1];
  const asked = new URLSearchParams(location.search).get("lang");
  const told = (asked || cookie("slipway_language") || (navigator.languages || [navigator.language])[0] || "en").toLowerCase();
  const language = told.startsWith("zh") ? "zh" : "en";
  const locale = language === "zh" ? "zh-CN" : "en";
  const remember = (chosen) => { document.cookie = `slipway_language=${chosen}; path=/; max-age=31536000; SameSite=Strict`; };
  if (asked) remember(language);
  // The choice made here must win over the browser's.
  for (const [name, value] of [["language", locale], ["languages", [locale]]]) {
    Object.defineProperty(Navigator.prototype, name, { get: () => value, configurable: true });
  }
  document.documentElement.lang = locale;
  document.documentElement.dataset.at = "0";
  document.documentElement.classList.add("sw");

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => kept("slipway_theme") || (dark.matches ? "dark" : "light");
  const paint = () => {
    const on = theme() === "dark";
    document.documentElement.classList.toggle("dark", on);
    document.body?.classList.toggle("dark", on);
    if (document.documentElement.lang !== locale) document.documentElement.lang = locale;
  };
  paint();
  dark.addEventListener("change", paint);
  addEventListener("DOMContentLoaded", () => {
    paint();
    const watcher = new MutationObserver(paint);
    watcher.observe(document.body, { attributes: true, attributeFilter: ["class"] });
    watcher.observe(document.documentElement, { attributes: true, attributeFilter: ["lang", "class"] });
  });

  const words = (window.slipwayWords || {})[language] || {};
  const WIZARD = ["stepper", "detect", "model", "engine", "review", "rail", "launch"]; // what Gradio makes at once
  const WAITS_MS = [300, 1000, 3000]; // before a request that was lost on its way is sent again
  const TRY_MS = 20_000; // without an answer; the panel goes on with it, and the next try waits for the same one
  const PATIENCE_MS = 60_000; // then a person is told
  const FORMS = ["model", "engine", "review"];
  const INPUTS = ["model-input", "engine-input"];
  const mark = [...crypto.getRandomValues(new Uint32Array(4))].join("-");
  const parts = {}; // what Gradio made, by name; where it makes a part anew, the new one
  const shown = {}; // their markup
  const listeners = [];
  let serial = 0;
  let typed = 0; // the newest request about what is in the form
  let judged = 0; // the newest answer to a step on, which judged the form too
  let allMade = null;
  const made = new Promise((done) => { allMade = done; });
  const pause = (time_ms) => new Promise((done) => { setTimeout(done, time_ms); });
  const heard = () => WIZARD.every((name) => name in parts);

  // What a finger or a held key is on stays until it is lifted: a button that is made anew under it would lose the click.
  let pressed = null;
  const late = new Map(); // what is to be done then, by the part that it is done to
  const untouched = (part, act) => { if (pressed && part?.contains(pressed)) late.set(part, act); else act(); };
  addEventListener("pointerdown", (event) => { pressed = event.button ? null : event.target; }, true); // a menu takes the other buttons' end
  addEventListener("keydown", (event) => { if (event.key === " " && event.target.closest?.("button, summary")) pressed = event.target; }, true);
  const lift = () => setTimeout(() => { pressed = null; const acts = [...late.values()]; late.clear(); for (const act of acts) act(); }, 0);
  for (const name of ["pointerup", "pointercancel", "keyup"]) addEventListener(name, lift, true);
  addEventListener("blur", lift); // the window's own: a field is left as soon as a button is pressed

  const tell = (reply) => { for (const listener of listeners) listener(reply); };

  // The key makes it the same request however often it is sent: the panel carries it out once.
  async function carry(told, still) {
    const begun = performance.now();
    for (let tries = 0; ; tries += 1) {
      let said;
      try {
        const answer = await fetch("/slipway/ask", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(told), signal: AbortSignal.timeout(TRY_MS) });
        if (answer.status === 401) { location.reload(); return; } // the login has ended
        said = await answer.json();
        if (!answer.ok) said = { reply: { do: told.do, serial: told.serial, trouble: said } };
      } catch {
        if (tries) silent(told.serial, true);
        if (performance.now() - begun > PATIENCE_MS) said = { reply: { do: told.do, serial: told.serial, trouble: { title: slipway.word("unheard"), hint: slipway.word("unheardHint") } } };
      }
      if (said) {
        await made;
        silent(told.serial, false);
        hear(told, said, still);
        return;
      }
      await pause(WAITS_MS[Math.min(tries, WAITS_MS.length - 1)]);
    }
  }

  const unanswered = new Set(); // serials of requests that had to be sent more than twice
  function silent(one, is) {
    if (unanswered.has(one) === is) return;
    if (is) unanswered.add(one); else unanswered.delete(one);
    dispatchEvent(new CustomEvent("slipway:silent", { detail: unanswered.size > 0 }));
  }

  function hear(told, { reply, ...given }, still) {
    if (INPUTS.includes(told.do) && told.serial < Math.max(typed, judged)) return; // a later answer is about what was typed since
    if (reply.go && !still()) { tell({ ...reply, go: null, draft: null, slots: null, notice: null }); return; }
    if (FORMS.includes(told.do)) judged = told.serial;
    for (const [name, markup] of Object.entries(given)) {
      shown[name] = markup;
      if (parts[name]) untouched(document.getElementById(`sw-${name}`), () => { parts[name].value = shown[name]; });
    }
    tell(reply);
  }

  window.slipway = {
    language, kept, keep, heard, untouched,
    version: window.slipwayVersion,
    word: (key, values = {}) => (words[key] || key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? ""),
    // While Gradio makes a part it may put its own value in once more.
    part(name, props, watch) {
      parts[name] = props;
      const put = () => { if (name in shown && props.value !== shown[name]) props.value = shown[name]; };
      watch("value", put);
      setTimeout(put, 0);
      if (heard()) allMade();
    },
    // `still`: whether an answer that leads elsewhere may still do so when it comes.
    ask(what, data = {}, still = () => true) {
      const mine = ++serial;
      if (INPUTS.includes(what)) typed = mine;
      carry({ ...data, do: what, language, serial: mine, key: `${mark}-${mine}` }, still);
      return mine;
    },
    newest: () => serial,
    onReply(listener) { listeners.push(listener); },
    setLanguage(chosen) { remember(chosen); const url = new URL(location); url.searchParams.delete("lang"); location.replace(url); },
    setTheme() { keep("slipway_theme", theme() === "dark" ? "light" : "dark"); paint(); dispatchEvent(new Event("slipway:theme")); },
  };
})();
