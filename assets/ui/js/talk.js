// One conversation with one server: its branch as it is shown, and the answer that comes now. Two may stand side by side.
import { Growing } from "./markdown.js";
import { element, fetched, figures, icon, iconButton, note } from "./parts.js";

const w = (key, values) => slipway.word(key, values);

export class Talk {
  // hooks: server() and name() of whom is asked; settings(); changed(); said(words); code(turn); twin() of a new one
  constructor(hooks) {
    this.hooks = hooks;
    this.box = element("section", "talk");
    this.head = element("header", "talk-head num");
    this.log = element("div", "bubble-wrap");
    this.log.dataset.chatLog = "";
    this.log.tabIndex = 0;
    this.log.setAttribute("role", "log");
    this.log.setAttribute("aria-live", "off"); // an answer is read out when it is whole, not at each of its updates
    this.whom = element("span", "st running");
    this.stopper = element("button", "btn stop sm");
    this.stopper.type = "button";
    this.stopper.append(icon("stop"), element("span", "", w("stop")));
    this.stopper.addEventListener("click", () => this.stop());
    this.head.append(this.whom, this.stopper);
    this.box.append(this.head, this.log);
    this.clear();
  }

  clear() {
    this.running?.abort();
    this.conversation = null;
    this.thread = [];
    this.running = null;
    this.draw();
  }

  open(conversation) {
    this.running?.abort();
    this.running = null;
    this.conversation = conversation;
    this.thread = conversation.thread;
    this.draw();
  }

  // --- what is shown -----------------------------------------------------------------------------------------------

  draw() {
    const here = this.log.contains(document.activeElement);
    this.log.replaceChildren();
    if (!this.thread.length) this.hello();
    this.thread.forEach((turn, index) => {
      if (turn.role === "user") return this.question(turn, index);
      if (turn === this.live?.turn && this.running) return this.log.append(this.live.row);
      const box = this.answerBox();
      box.growing.add(turn.content);
      this.finish(box, turn, index);
    });
    this.log.scrollTop = this.log.scrollHeight;
    if (here) this.log.focus({ preventScroll: true }); // what had the focus is made anew: a keyboard stays in its place
    this.title();
  }

  hello() {
    this.log.querySelector(".hello")?.remove();
    if (!this.thread.length && this.hooks.name()) this.log.append(element("p", "muted hello", this.hooks.hello?.() || w("hello", { name: this.hooks.name() })));
  }

  title() {
    const name = this.hooks.name();
    this.box.setAttribute("aria-label", name);
    this.log.setAttribute("aria-label", name);
    this.whom.textContent = name;
    this.stopper.hidden = !this.running;
  }

  question(turn, index) {
    const row = element("div", "user-row");
    const body = element("div", "user message", turn.content);
    row.append(body);
    const tools = element("div", "said-tools");
    if (turn.id) tools.append(...this.versions(turn), iconButton("edit", w("edit"), () => this.edit(row, turn)));
    if (turn.id && index === this.thread.length - 1 && !this.running) tools.append(iconButton("restart", w("again"), () => this.again(index + 1)));
    const stack = element("div", "said");
    stack.append(body, tools);
    row.replaceChildren(stack);
    this.log.append(row);
    return row;
  }

  answerBox() {
    const row = element("div", "bot-row");
    const message = element("div", "bot message");
    const text = element("div", "words");
    const line = element("div", "ans num");
    message.append(text, line);
    row.append(message);
    this.log.append(row);
    return { row, text, line, growing: new Growing(text) };
  }

  finish(box, turn, index) {
    const told = turn.figures || {};
    const words = { stopped: ["stopped", w("stoppedByYou")], cut: ["degraded", w("cutShort")] };
    const state = words[told.state] || (told.finish === "length" ? ["degraded", w("atLimit")] : null);
    if (told.state === "failed") {
      const trouble = turn.trouble || { title: told[`trouble_${slipway.language}`] || w("failed") };
      box.text.append(note(trouble.title || w("failed"), [trouble.hint, ...(trouble.reasons || [])].filter(Boolean).join(" ")));
    }
    if (turn.unkept) box.text.append(note(turn.unkept.title || w("notKept"), turn.unkept.hint));
    figures(box.line, told, state);
    const tools = element("span", "end");
    tools.append(...this.versions(turn), iconButton("copy", w("copy"), () => slipway.copy(turn.content)), iconButton("restart", w("again"), () => this.again(index)), iconButton("code", w("viewCode"), (event) => this.hooks.code(this.until(index), event.currentTarget)));
    box.line.append(tools);
  }

  // ‹ 1/2 ›: the messages that stand in the same place.
  versions(turn) {
    const all = turn.beside || [];
    if (all.length < 2) return [];
    const at = all.indexOf(turn.id);
    const box = element("span", "versions num");
    const back = iconButton("back", w("earlierOne"), () => this.branch(all[at - 1]));
    const on = iconButton("chev", w("laterOne"), () => this.branch(all[at + 1]));
    back.disabled = at === 0;
    on.disabled = at === all.length - 1;
    const middle = element("span", "", `${at + 1}/${all.length}`);
    middle.setAttribute("role", "img");
    middle.setAttribute("aria-label", w("version", { a: at + 1, n: all.length }));
    box.append(back, middle, on);
    return [box];
  }

  async branch(message) {
    if (this.running || this.branching) return; // one after the other, so that the last one answered is the last one kept
    const shown = this.conversation;
    this.branching = true;
    try {
      const found = await fetched(`/slipway/conversations/${shown.id}`, { method: "PATCH", body: JSON.stringify({ branch: message }) });
      if (this.running || this.conversation !== shown) return; // another was opened, or asked, meanwhile
      this.open(found);
      this.hooks.changed();
      const tools = [...this.log.querySelectorAll(".versions")].at(-1);
      tools?.querySelector("button:not(:disabled)")?.focus({ preventScroll: true });
    } catch (trouble) {
      this.log.append(note(trouble.title, trouble.hint));
    } finally { this.branching = false; }
  }

  edit(row, turn) {
    if (this.running) return;
    const form = element("form", "edit-form");
    const area = element("textarea", "in area");
    area.value = turn.content;
    area.rows = Math.min(10, turn.content.split("\n").length + 1);
    area.setAttribute("aria-label", w("question"));
    const cancel = element("button", "btn sm", w("cancel"));
    cancel.type = "button";
    const send = element("button", "btn sm primary", w("send"));
    send.type = "submit";
    const buttons = element("div", "row");
    buttons.append(cancel, send);
    form.append(area, buttons);
    const leave = () => { this.draw(); [...this.log.querySelectorAll(".user-row")][this.thread.filter((one) => one.role === "user").indexOf(turn)]?.querySelector(".said-tools > button")?.focus(); };
    cancel.addEventListener("click", leave);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); leave(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      event.stopPropagation();
      const words = area.value.trim();
      if (!words || words === turn.content) return leave();
      this.ask({ text: words, instead_of: turn.id }, this.thread.slice(0, this.thread.indexOf(turn)));
    });
    row.replaceChildren(form);
    area.focus();
    area.select();
  }

  // --- asking ------------------------------------------------------------------------------------------------------

  until(index) { return this.thread.slice(0, index).filter((turn) => turn.content).map((turn) => ({ role: turn.role, content: turn.content })); }

  again(index) {
    if (this.running) return;
    const question = this.thread[index - 1];
    if (!question?.id) return;
    this.ask({ again: question.id }, this.thread.slice(0, index));
  }

  // A question is kept before it is answered: one that is on its way is stopped when that is known.
  stop() { if (this.live?.turn.id) this.running?.abort(); else this.ending = this.running; }

  // Asks behind `base`, and returns what the panel said when the question was kept; the answer then comes by itself.
  ask(asked, base = this.thread) {
    const before = this.thread;
    this.thread = asked.text ? [...base, { role: "user", content: asked.text }] : base;
    const turn = { role: "assistant", content: "", figures: null };
    this.thread = [...this.thread, turn];
    const mine = new AbortController();
    this.running = mine;
    this.live = null;
    this.draw();
    this.log.lastElementChild?.remove(); // the place of the answer that only begins
    const box = this.answerBox();
    const caret = element("span", "caret");
    box.text.append(caret);
    this.live = { row: box.row, turn };
    figures(box.line, {}, ["starting", w("answering")]);
    this.log.scrollTop = this.log.scrollHeight;
    this.hooks.changed();
    this.hooks.said(w("answering"));
    const body = { server: this.hooks.server(), ...this.hooks.settings(), ...asked };
    if (this.conversation) body.conversation = this.conversation.id; else if (this.hooks.twin()) body.twin = this.hooks.twin();
    return new Promise((kept) => this.follow(body, mine, turn, box, caret, before, kept));
  }

  async follow(body, mine, turn, box, caret, before, kept) {
    const begun = performance.now();
    let whole = false;
    try {
      const answer = await fetch("/slipway/chat", { method: "POST", signal: mine.signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
      if (!answer.ok) return this.refused(await answer.json().catch(() => ({})), before, body, mine, kept);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const told = JSON.parse(line);
          if (told.kept) { this.keep(told.kept, turn); kept(told.kept); if (this.ending === mine) mine.abort(); }
          if (told.text) this.grow(told, turn, box, caret, begun);
          if (told.done) { Object.assign(turn, { figures: told.done, trouble: told.trouble, unkept: told.unkept }); whole = true; }
        }
      }
      if (!whole) turn.figures = { ...turn.figures, state: "cut" };
    } catch (error) {
      turn.figures = { ...turn.figures, state: mine.signal.aborted ? "stopped" : "cut" };
      if (!turn.id && !mine.signal.aborted) return this.refused({ title: w("failed"), hint: w("gone") }, before, body, mine, kept);
    }
    kept(null);
    if (this.running !== mine) return; // another conversation was opened meanwhile
    this.running = null;
    this.draw();
    this.hooks.said(box.text.textContent);
    this.hooks.changed();
  }

  keep(told, turn) {
    this.conversation = { ...this.conversation, id: told.conversation, name: told.name };
    const asked = this.thread.at(-2);
    Object.assign(asked, { id: told.question.id, beside: told.question.beside });
    Object.assign(turn, { id: told.answer.id, beside: told.answer.beside });
    this.hooks.changed();
  }

  grow(told, turn, box, caret, begun) {
    const stick = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
    turn.content += told.text;
    caret.remove();
    box.growing.add(told.text);
    (box.text.lastElementChild || box.text).append(caret);
    const seconds = (performance.now() - begun) / 1000;
    const speed = told.pieces > 1 && seconds > told.ttft ? (told.pieces - 1) / (seconds - told.ttft) : 0;
    turn.figures = { ttft: told.ttft, tokens: told.pieces, speed };
    figures(box.line, turn.figures, ["starting", w("answering")]);
    if (stick) this.log.scrollTop = this.log.scrollHeight;
  }

  // Nothing was kept: the page stands as before, with the reason, and the question is back in its field.
  refused(trouble, before, body, mine, kept) {
    kept(null);
    if (this.running !== mine) return;
    this.running = null;
    this.thread = before;
    this.draw();
    this.log.querySelector(".hello")?.remove();
    this.log.append(note(trouble.title || w("failed"), [trouble.hint, ...(trouble.reasons || [])].filter(Boolean).join(" ")));
    this.log.scrollTop = this.log.scrollHeight;
    this.hooks.refused(body.text);
    this.hooks.changed();
  }
}
