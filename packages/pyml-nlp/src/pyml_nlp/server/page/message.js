// One message on the page: its text, what is known about it, and its buttons.

import { build, button, copyText } from "./dom.js";
import { describe } from "./generation.js";
import { MarkdownView } from "./markdown_view.js";
import { TokensView, tokensOf } from "./probabilities.js";

/** A message as an item of the list. Answers may grow. */
export class MessageItem {
  /**
   * @param {object} node the message.
   * @param {object} actions what its buttons do: `edit(node, text)`, `again(node)`, `goOn(node)`, `step(node, by)`,
   *   `force(node, index, entry)`, `timeline(node)`.
   */
  constructor(node, actions) {
    this.node = node;
    this.actions = actions;
    const name = node.role === "user" ? "You" : "Model";
    this.branch = build(["span", { class: "branch" }]);
    this.body = build(["div", { class: "body" }]);
    this.facts = build(["ul", { class: "facts" }]);
    this.buttons = build(["div", { class: "actions" }]);
    const head = ["header", null, ["h2", null, name], this.branch];
    this.article = build([
      "article",
      { class: `message ${node.role}`, tabindex: "-1", "aria-label": name },
      head,
      this.body,
    ]);
    this.article.append(this.facts, this.buttons);
    this.element = build(["li", null, this.article]);
    this.asTokens = false;
    this.showText();
  }

  /** Show the text: a user's as it was typed, an answer as Markdown, or as its tokens. */
  showText() {
    const { node, body } = this;
    this.folded = this.markdown = this.tokens = null;
    if (node.role === "user") {
      body.replaceChildren(build(["div", { class: "typed" }, node.content]));
      return;
    }
    const text = build(["div", { class: "markdown" }]);
    this.reasoningText = document.createTextNode("");
    this.folded = build([
      "details",
      { class: "reasoning" },
      ["summary", null, "Reasoning"],
      ["div", null, this.reasoningText],
    ]);
    body.replaceChildren(this.folded, text);
    if (this.asTokens)
      this.tokens = new TokensView(text, node, (index, entry) => this.actions.force(node, index, entry));
    else this.markdown = new MarkdownView(text);
    this.grow();
    this.finish();
  }

  /** Show what has been added to an answer. */
  grow() {
    const { node } = this;
    const reasoning = node.reasoning ?? "";
    this.folded.hidden = !reasoning || this.asTokens;
    this.reasoningText.appendData(reasoning.slice(this.reasoningText.length));
    this.tokens?.update();
    this.markdown?.update(node.content);
    this.#showFacts();
  }

  /** Nothing will be added. */
  finish() {
    this.markdown?.finish(this.node.content);
    this.#showFacts();
  }

  #showFacts() {
    const found = describe(this.node.facts ?? {});
    this.facts.replaceChildren(...found.map(({ text, title }) => build(["li", { title }, text])));
  }

  /**
   * Show the buttons.
   *
   * @param {object} place `index` and `count` of its branch, `last`: whether it ends the conversation, `busy`.
   */
  showButtons({ index, count, last, busy }) {
    const { node, actions } = this;
    const answer = node.role === "assistant";
    this.article.classList.toggle("busy", busy && last);
    this.article.setAttribute("aria-busy", String(busy && last));
    const found = [button("Copy", ({ target }) => copyText(node.content, target)), button("Edit", () => this.edit())];
    if (answer || last) found.push(button(answer ? "Another answer" : "Answer", () => actions.again(node)));
    if (answer && last) found.push(button("Continue", () => actions.goOn(node)));
    if (answer && tokensOf(node).length) {
      const pressed = String(this.asTokens);
      found.push(
        button("Probabilities", () => this.toggleTokens(), { class: "probabilities", "aria-pressed": pressed }),
      );
    }
    if (node.facts?.timeline)
      found.push(button("Timeline", () => actions.timeline(node), { title: "A file for ui.perfetto.dev" }));
    this.buttons.replaceChildren(...(busy ? [] : found));
    const step = (by, text, name) =>
      button(text, () => actions.step(node, by), {
        "aria-label": name,
        "data-step": by,
        disabled: busy || !(index + by in Array(count).fill()),
      });
    const place = `${index + 1} of ${count}`;
    const branches = [step(-1, "‹", "Branch before"), ["span", null, place], step(1, "›", "Branch after")];
    this.branch.replaceChildren(...(count > 1 ? branches.map(build) : []));
  }

  /** Show the answer as its tokens. */
  showTokens() {
    this.asTokens = true;
    this.showText();
  }

  /** Show the answer as its tokens, or as text again. */
  toggleTokens() {
    this.asTokens = !this.asTokens;
    this.showText();
    const toggle = this.buttons.querySelector(".probabilities");
    toggle?.setAttribute("aria-pressed", String(this.asTokens));
    toggle?.focus();
  }

  /** Let the text be changed; saving makes a branch. */
  edit() {
    const { node } = this;
    const field = build(["textarea", { "aria-label": "Text of the message", rows: "3" }]);
    field.value = node.content;
    const close = () => (this.showText(), (this.buttons.hidden = false), this.article.focus());
    const save = () => {
      const text = field.value.trim();
      if (!text || text === node.content.trim()) return close();
      close();
      this.actions.edit(node, text);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (event.stopPropagation(), close());
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    });
    const name = node.role === "user" ? "Send" : "Save";
    const row = ["div", { class: "row" }, button(name, save, { class: "primary" }), button("Cancel", close)];
    this.body.replaceChildren(build(["div", { class: "editor" }, field, row]));
    this.buttons.hidden = true;
    field.focus();
  }
}
