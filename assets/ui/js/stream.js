// The one live stream of the page. Every part says what it watches; a change opens the stream anew at the same place.
const SILENT_MS = 40_000; // the panel says something every 10 to 20 seconds (BEAT_S in app/live.py)
const listeners = {};
const wanted = { run: null, step: null, start: 0, monitor: false };
let source = null;
let cursor = null; // byte of the log behind the last line that was shown
let again = 0;
let begun = false;
let silence = 0;

export function on(name, listener) { (listeners[name] ||= []).push(listener); }

function tell(name, data) { for (const listener of listeners[name] || []) listener(data); }

export function watch(change) {
  begun = true;
  const before = JSON.stringify(wanted);
  Object.assign(wanted, change);
  if (JSON.stringify(wanted) === before && source) return;
  if ("run" in change || "step" in change) cursor = null;
  open();
}

// A browser keeps six connections to one address for all its tabs: one that nobody sees must not hold any.
document.addEventListener("visibilitychange", () => { if (begun) open(); });

// What an EventSource does not tell: a login that has ended, or a run that was deleted in another window.
async function why(refused) {
  const looking = new AbortController();
  const { status } = await fetch(refused.url, { signal: looking.signal }).catch(() => ({}));
  looking.abort();
  if (status === 401) location.reload();
  if (status !== 404 || refused !== source) return;
  if (wanted.step) watch({ step: null, start: 0 }); else if (wanted.run) tell("gone", wanted.run);
}

// A connection can die without a word, as when a machine sleeps or a tunnel stalls: the browser would wait for ever.
function heard() {
  clearTimeout(silence);
  silence = setTimeout(() => { tell("state", "lost"); open(); }, SILENT_MS);
}

function open() {
  clearTimeout(again);
  clearTimeout(silence);
  source?.close();
  if (document.hidden) return;
  const asked = new URLSearchParams({ lang: slipway.language });
  if (wanted.run) asked.set("run", wanted.run);
  if (wanted.run && wanted.step) asked.set("step", wanted.step);
  if (wanted.run && wanted.step && wanted.start) asked.set("start", wanted.start);
  if (wanted.monitor) asked.set("monitor", "1");
  if (cursor !== null) asked.set("from", cursor);
  source = new EventSource(`/slipway/stream?${asked}`);
  const mine = source;
  heard();
  source.onopen = () => { if (mine === source) { heard(); tell("state", "open"); } };
  source.onerror = () => {
    if (mine !== source) return;
    tell("state", "lost");
    // The browser comes back by itself, except where the answer was an error.
    if (mine.readyState === EventSource.CLOSED) { again = setTimeout(open, 2000); why(mine); }
  };
  for (const name of ["here", "panel", "run", "monitor", "skip"]) {
    source.addEventListener(name, (event) => {
      if (mine !== source) return;
      heard();
      tell(name, JSON.parse(event.data));
    });
  }
  source.addEventListener("log", (event) => {
    if (mine !== source) return;
    heard();
    const page = JSON.parse(event.data);
    if (cursor !== null && page.from < cursor) return; // told before
    if (cursor !== null && page.from > cursor && page.from !== 0) return open(); // something is missing: ask again
    cursor = page.to;
    tell("log", page);
  });
}
