// Language, theme, and the door to the panel (Gradio hands over its trigger later). In the page itself, before anything of
// Gradio's, which takes the words of its own parts from the browser's language.
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
  let trigger = null;
  let serial = 0;
  const waiting = [];
  const listeners = [];
  window.slipway = {
    language, kept, keep,
    word: (key, values = {}) => (words[key] || key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? ""),
    ask(what, data = {}) {
      const told = { ...data, do: what, language, serial: ++serial };
      if (trigger) trigger("click", told); else waiting.push(told);
      return serial;
    },
    heard: () => trigger !== null,
    bus(given) {
      trigger = given;
      setTimeout(() => { for (const told of waiting.splice(0)) trigger("click", told); }, 0);
    },
    reply(text) { if (text) for (const listener of listeners) listener(JSON.parse(text)); },
    onReply(listener) { listeners.push(listener); },
    setLanguage(chosen) { remember(chosen); const url = new URL(location); url.searchParams.delete("lang"); location.replace(url); },
    setTheme() { keep("slipway_theme", theme() === "dark" ? "light" : "dark"); paint(); dispatchEvent(new Event("slipway:theme")); },
  };
})();
