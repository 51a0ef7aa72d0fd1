// The tokens of an answer, coloured by their probability, with the most probable ones instead of each.

import { build, button, byId } from "./dom.js";

const kept = new WeakMap(); // message -> entries of the API; too large to be kept in the browser's storage
const LINE = 200; // tokens that are laid out together at most
const CONTROL = /^<(\|.*\|?|\/?s|eos|bos|pad|unk|[a-z]+_of_[a-z]+|\/?think)>$/;

export const tokensOf = (node) => kept.get(node) ?? [];

/** Add entries of `logprobs.content` to a message's. */
export function addTokens(node, entries) {
  if (!kept.has(node)) kept.set(node, []);
  kept.get(node).push(...entries);
}

/** The tokens of a message up to one, and another one in its place. */
export function replacedTokens(node, index, entry) {
  return [
    ...tokensOf(node).slice(0, index),
    { ...entry, top_logprobs: tokensOf(node)[index].top_logprobs, forced: true },
  ];
}

/** Where each token begins in the text of the answer; null for those that are no part of it, as of the reasoning. */
export function offsets(content, entries, reasoning = "") {
  const decoder = new TextDecoder();
  let at = 0;
  let waiting = reasoning.trim(); // what comes before the text
  return entries.map((entry) => {
    const text = decoder.decode(Uint8Array.from(entry.bytes ?? []), { stream: true });
    if (CONTROL.test(text)) return null;
    if (waiting) {
      if (waiting.startsWith(text.trim())) waiting = waiting.slice(text.trim().length).trimStart();
      return null;
    }
    const begin = at;
    if (content.startsWith(text, at)) at += text.length;
    else if (at === 0 && text.trim() && content.startsWith(text.trimStart()))
      at += text.trimStart().length; // the tokenizer's own space
    else return null;
    return begin;
  });
}

/** The text of a token that can be forced; null: it is a control token, or not whole characters. */
export function forcible(entry) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(entry.bytes ?? []));
    return text && !CONTROL.test(text) ? text : null;
  } catch {
    return null;
  }
}

/** The text of an answer up to a token, with another one in its place. */
export function forcedText({ content, reasoning }, index, entries, entry) {
  const begin = offsets(content, entries, reasoning)[index];
  const text = forcible(entry);
  const added = begin === 0 && !content.startsWith(" ") && forcible(entries[index])?.startsWith(" "); // by the tokenizer
  return content.slice(0, begin) + (added ? text.replace(/^ /, "") : text);
}

const percent = (logprob) => {
  const value = 100 * Math.exp(logprob);
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : "<0.1"} %`;
};

/** 0 for a token that was nearly certain, to 5 for one that nearly never comes. */
const surprise = (logprob) => [0.9, 0.5, 0.2, 0.05, 0.01].filter((limit) => Math.exp(logprob) < limit).length;

const spelled = (entry) => {
  const text = forcible(entry) ?? entry.token ?? "";
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(nothing)";
};

/** The tokens of an answer as they come. Only the last line grows. */
export class TokensView {
  /**
   * @param {Element} container is filled.
   * @param {object} node the message.
   * @param {(index: number, entry: object) => void} onForce another token at a place is wanted.
   */
  constructor(container, node, onForce) {
    Object.assign(this, { node, onForce, shown: 0, decoder: new TextDecoder(), inLine: 0 });
    this.root = build(["div", { class: "tokens", role: "group", "aria-label": "Tokens of the answer" }]);
    const scale = [0, 1, 2, 3, 4, 5].map((level) => ["span", { class: `t s${level}` }, "  "]);
    container.replaceChildren(build(["p", { class: "hint legend" }, "likely ", ...scale, " unlikely"]), this.root);
    this.root.addEventListener("mouseover", ({ target }) => this.#isToken(target) && this.#open(target, false));
    this.root.addEventListener("mouseleave", () => closeAlternatives(false));
    this.root.addEventListener("click", ({ target }) => this.#isToken(target) && this.#open(target, true));
    this.root.addEventListener("keydown", (event) => this.#onKey(event));
  }

  update() {
    const entries = tokensOf(this.node);
    for (; this.shown < entries.length; this.shown++) {
      const entry = entries[this.shown];
      const text = this.decoder.decode(Uint8Array.from(entry.bytes ?? []), { stream: true });
      const level = `t s${surprise(entry.logprob)}${entry.forced ? " forced" : ""}`;
      const token = build(["span", { class: level, tabindex: this.shown ? "-1" : "0" }, text || "·"]);
      token.entry = entry;
      token.index = this.shown;
      if (!this.line || this.inLine >= LINE) this.root.append((this.line = build(["div", null])));
      this.inLine = this.inLine >= LINE ? 1 : this.inLine + 1;
      this.line.append(token);
      if (text.includes("\n")) [this.line, this.inLine] = [null, 0];
    }
  }

  #isToken = (target) => target.classList.contains("t");

  #open(token, pinned) {
    openAlternatives(this, token, pinned);
  }

  #onKey(event) {
    const token = event.target;
    if (!this.#isToken(token)) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter") this.#open(token, true);
    if (!step && event.key !== "Enter") return;
    event.preventDefault();
    const all = this.root.querySelectorAll(".t");
    const next = step ? all[token.index + step] : null;
    if (!next) return;
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.setAttribute("role", "button");
    next.setAttribute("aria-label", `${spelled(next.entry)}, ${percent(next.entry.logprob)}`);
    next.focus();
    this.#open(next, false);
  }
}

// ---- the box with the alternatives: one for the page

let opened = null; // the token, and whether the box stays

function openAlternatives(view, token, pinned) {
  if (opened?.pinned && !pinned) return;
  const box = byId("alternatives");
  const { entry, index } = token;
  const top = entry.top_logprobs ?? [];
  const others = top.some((one) => one.token === entry.token) ? top : [entry, ...top];
  const places = offsets(view.node.content, tokensOf(view.node), view.node.reasoning);
  const rows = others.map((one) => row(view, index, one, one.token === entry.token, places[index] !== null));
  const hint = pinned ? "Choose a token to go on with it in place of this one." : "Click to choose another one.";
  box.replaceChildren(build(["ol", null, ...rows]), build(["p", { class: "hint" }, hint]));
  box.hidden = false;
  opened?.token.classList.remove("open");
  token.classList.add("open");
  opened = { token, pinned };
  place(box, token.getClientRects()[0] ?? token.getBoundingClientRect());
  if (pinned) (box.querySelector("button:enabled") ?? box.querySelector("button"))?.focus();
}

function row(view, index, entry, chosen, inText) {
  const reason = !inText
    ? "It is no part of the text"
    : forcible(entry) === null
      ? "A control token, or a part of a character"
      : null;
  const force = button(spelled(entry), () => (closeAlternatives(true), view.onForce(index, entry)), {
    disabled: Boolean(chosen || reason || !view.onForce),
    title: chosen ? "The token that was chosen" : reason,
  });
  const bar = build(["meter", { min: "0", max: "1", value: String(Math.exp(entry.logprob)), "aria-hidden": "true" }]);
  return ["li", chosen ? { class: "chosen" } : null, force, bar, ["span", null, percent(entry.logprob)]];
}

/** Put the box below a token, or above it, within the window. */
function place(box, { left, top, bottom }) {
  const { offsetWidth: width, offsetHeight: height } = box;
  const below = bottom + height + 8 < window.innerHeight;
  box.style.left = `${Math.max(4, Math.min(left, window.innerWidth - width - 4))}px`;
  box.style.top = `${Math.max(4, below ? bottom + 4 : top - height - 4)}px`;
}

/** Close the box, one that stays only if `always`; whether it was open. */
export function closeAlternatives(always) {
  if (!opened || (opened.pinned && !always)) return false;
  const { token, pinned } = opened;
  opened = null;
  token.classList.remove("open");
  const box = byId("alternatives");
  if (pinned && box.contains(document.activeElement)) token.focus();
  box.hidden = true;
  return true;
}

document.addEventListener("click", ({ target }) => {
  if (opened && !target.closest("#alternatives, .tokens")) closeAlternatives(true);
});
