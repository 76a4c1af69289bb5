// Markdown as page elements. Text goes in as text, never as HTML, so nothing that a model writes is carried out.
// While an answer grows only its last block is made anew: the cost is linear in the length of the answer.
const make = (tag, ...inside) => { const made = document.createElement(tag); made.append(...inside); return made; };

function inline(target, words) {
  const parts = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/g;
  let from = 0;
  for (const hit of words.matchAll(parts)) {
    target.append(words.slice(from, hit.index));
    if (hit[1] !== undefined) target.append(make("code", hit[1]));
    else if (hit[2] !== undefined) target.append(make("strong", hit[2]));
    else if (hit[3] !== undefined) target.append(make("em", hit[3]));
    else {
      const link = make("a", hit[4]);
      link.href = hit[5];
      link.rel = "noopener noreferrer";
      link.target = "_blank";
      target.append(link);
    }
    from = hit.index + hit[0].length;
  }
  target.append(words.slice(from));
  return target;
}

function list(lines, ordered) {
  const made = make(ordered ? "ol" : "ul");
  for (const line of lines) {
    const item = line.replace(/^\s*(?:[-*+]|\d+[.)])\s+/, "");
    if (item === line && made.lastChild) inline(made.lastChild, ` ${line.trim()}`);
    else made.append(inline(make("li"), item));
  }
  return made;
}

function table(lines) {
  const cells = (line) => line.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, tag) => make("tr", ...cells(line).map((cell) => inline(make(tag), cell)));
  return make("table", make("thead", row(lines[0], "th")), make("tbody", ...lines.slice(2).map((line) => row(line, "td"))));
}

function block(words) {
  const fence = /^```(.*)\n?/.exec(words);
  if (fence) {
    const code = make("pre", words.slice(fence[0].length).replace(/\n?```\s*$/, ""));
    code.className = "code";
    return code;
  }
  const lines = words.split("\n");
  const heading = /^(#{1,4})\s+(.*)$/.exec(lines[0]);
  if (heading && lines.length === 1) return inline(make(`h${Math.min(6, heading[1].length + 2)}`), heading[2]);
  if (/^\s*[-*+]\s/.test(lines[0])) return list(lines, false);
  if (/^\s*\d+[.)]\s/.test(lines[0])) return list(lines, true);
  if (lines.length > 1 && lines[0].includes("|") && /^[\s|:-]+$/.test(lines[1])) return table(lines);
  if (/^>\s?/.test(lines[0])) return inline(make("blockquote"), lines.map((line) => line.replace(/^>\s?/, "")).join("\n"));
  return inline(make("p"), words);
}

// Where the present block ends: behind an empty line outside a fence, or behind the fence's end. -1: not yet.
function end(words) {
  if (words.startsWith("```")) {
    const close = words.indexOf("\n```", 3);
    if (close < 0) return -1;
    const line = words.indexOf("\n", close + 1);
    return line < 0 ? -1 : line + 1;
  }
  const gap = words.search(/\n\s*\n|\n(?=```)/);
  if (gap < 0) return -1;
  return words.indexOf("\n", gap) + 1;
}

export class Growing {
  constructor(target) { this.target = target; this.rest = ""; this.last = null; }
  add(words) {
    this.rest += words;
    for (let cut = end(this.rest); cut > 0; cut = end(this.rest)) {
      const whole = this.rest.slice(0, cut).replace(/\s+$/, "");
      this.last?.remove();
      this.last = null;
      if (whole) this.target.append(block(whole));
      this.rest = this.rest.slice(cut).replace(/^\n+/, "");
    }
    const next = this.rest.trim() ? block(this.rest.replace(/\s+$/, "")) : null;
    if (this.last && next) this.last.replaceWith(next); else if (next) this.target.append(next); else this.last?.remove();
    this.last = next;
  }
}
