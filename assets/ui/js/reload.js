// A page that came half is loaded again. A network that changes (a container that starts is enough, for a browser on the
// same machine) makes the browser drop what it was about to fetch; Gradio asks for no file twice, and would stay empty.
(() => {
  "use strict";
  const html = document.documentElement;
  const KEY = "slipway_loads";
  const WAITS_MS = [300, 1000, 3000, 10_000]; // before each further load; then a person is told
  const SILENCE_MS = 20_000; // without a file, before Gradio is there
  const MISSING = /importing a module|dynamically imported module|unable to preload/i; // as Safari, the others, Vite say it
  const before = () => { try { return Number(sessionStorage.getItem(KEY)) || 0; } catch { return WAITS_MS.length; } };
  const note = (count) => { try { if (count) sessionStorage.setItem(KEY, count); else sessionStorage.removeItem(KEY); } catch { /* private window */ } };
  let due = false;

  function again() {
    if (due) return;
    due = true;
    html.dataset.half = "";
    const loads = before();
    if (loads >= WAITS_MS.length) { note(0); tell(); return; }
    note(loads + 1);
    setTimeout(() => location.reload(), WAITS_MS[loads]);
  }

  function tell() {
    const box = document.createElement("p");
    box.setAttribute("role", "alert");
    box.style.cssText = "position:fixed;z-index:99;inset:0 0 auto;margin:0;padding:12px 16px;text-align:center;background:#b3261e;color:#fff";
    const link = document.createElement("a");
    link.href = location.href;
    link.style.color = "inherit";
    link.textContent = slipway.word("loadAgain");
    box.append(`${slipway.word("half")} `, link);
    document.body.append(box);
  }

  addEventListener("error", (event) => { if (event.target?.matches?.('script[type="module"], link[rel="stylesheet"]')) again(); }, true);
  addEventListener("unhandledrejection", (event) => { if (MISSING.test(event.reason?.message)) again(); });
  addEventListener("vite:preloadError", again);

  let heard = performance.now();
  const files = new PerformanceObserver(() => { heard = performance.now(); });
  files.observe({ type: "resource" });
  const watch = setInterval(() => {
    if (!slipway.heard() && performance.now() - heard < SILENCE_MS) return;
    clearInterval(watch);
    files.disconnect();
    if (!slipway.heard()) again();
  }, 1000);
  new MutationObserver(() => { if ("ready" in html.dataset && !due) note(0); }).observe(html, { attributeFilter: ["data-ready"] });
})();
