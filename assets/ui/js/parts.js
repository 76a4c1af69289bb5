// Small parts that the chat's scripts share: elements, icons, figures.
export function element(tag, name, words) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (words !== undefined) made.textContent = words;
  return made;
}

export const icon = (name) => { const box = element("span", "ic"); box.innerHTML = `<svg class="i" aria-hidden="true"><use href="#i-${name}"/></svg>`; return box; };

export function iconButton(name, label, action) {
  const made = element("button", "btn ghost icon sm");
  made.type = "button";
  made.append(icon(name));
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

export const ms = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`);

// TTFT, speed, tokens, time; `state` is [shape, word].
export function figures(target, told, state) {
  const parts = [];
  const add = (before, value, after) => { const one = element("span"); if (before) one.append(`${before} `); one.append(element("b", "", value)); if (after) one.append(` ${after}`); parts.push(one); };
  if (told.ttft != null) add("TTFT", ms(told.ttft));
  if (told.speed) add("", told.speed.toFixed(told.speed < 100 ? 1 : 0), "tok/s");
  if (told.tokens) add("", told.tokens.toLocaleString("en"), slipway.word("tokens"));
  if (told.seconds != null) add("", told.seconds < 1 ? Math.round(told.seconds * 1000) : told.seconds.toFixed(1), told.seconds < 1 ? "ms" : "s");
  if (state) parts.push(element("span", `st ${state[0]}`, state[1]));
  target.replaceChildren(...parts);
}

// A note with a warning: what happened, what to do.
export function note(title, hint) {
  const card = element("div", "note bad");
  card.setAttribute("role", "alert");
  const words = element("div");
  words.append(element("strong", "", title));
  if (hint) words.append(` ${hint}`);
  card.append(icon("warn"), words);
  return card;
}

// JSON from a route of the panel; throws {title, hint} in the page's language.
export async function fetched(path, options = {}) {
  let answer;
  try { answer = await fetch(path, { headers: { "content-type": "application/json" }, ...options }); } catch { throw { title: slipway.word("failed"), hint: slipway.word("gone") }; }
  const told = await answer.json().catch(() => ({ title: slipway.word("failed") }));
  if (!answer.ok) throw { status: answer.status, ...told };
  return told;
}
