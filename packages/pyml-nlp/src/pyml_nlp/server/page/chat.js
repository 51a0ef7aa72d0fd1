// The conversation that is shown: sending, answers, branches.

import { getText } from "./api.js";
import { announce, byId, download, showError } from "./dom.js";
import { generate, learnMore } from "./generation.js";
import { MessageItem } from "./message.js";
import { addTokens, forcedText, replacedTokens, tokensOf } from "./probabilities.js";
import { requestFields, systemPrompt, wantsProbabilities } from "./settings.js";
import {
  addNode,
  dropNode,
  messages,
  newConversation,
  path,
  saveConversation,
  showBranch,
  siblings,
} from "./storage.js";

const FASTEST = 33; // ms between two drawings of an answer that grows, at least
const SHARE = 4; // and this many times as long as drawing took: the page stays responsive

export class Chat {
  /** @param {() => void} onKept is called when a conversation has been kept. */
  constructor(onKept) {
    this.onKept = onKept;
    this.list = byId("messages");
    this.log = byId("log");
    this.items = new Map(); // id of a message -> its item
    this.running = null; // what stops the answer
    this.pause = FASTEST;
    this.open(newConversation());
    this.log.addEventListener("scroll", () => (this.follow = this.#atEnd()), { passive: true });
  }

  /** Show a conversation. */
  open(conversation) {
    this.stop();
    this.conversation = conversation;
    this.items.clear();
    this.follow = true;
    this.show();
  }

  /** Show the messages of the current branch. */
  show() {
    const { conversation } = this;
    const nodes = path(conversation);
    const found = nodes.map((node) => this.#item(node));
    found.forEach((item, place) => {
      const branches = siblings(conversation, item.node);
      const last = place === found.length - 1;
      item.showButtons({
        index: branches.indexOf(item.node),
        count: branches.length,
        last,
        busy: Boolean(this.running),
      });
    });
    const elements = found.map((item) => item.element);
    const same =
      elements.length === this.list.children.length && elements.every((one, k) => one === this.list.children[k]);
    if (!same) this.list.replaceChildren(...elements);
    byId("empty").hidden = nodes.length > 0;
    document.title = conversation.title ? `${conversation.title} · pyml` : "pyml";
    this.#scroll();
  }

  #item(node) {
    if (!this.items.has(node.id)) this.items.set(node.id, new MessageItem(node, this.#actions));
    return this.items.get(node.id);
  }

  #actions = {
    edit: (node, content) => this.edit(node, content),
    again: (node) => this.again(node),
    goOn: (node) => this.goOn(node),
    step: (node, by) => this.step(node, by),
    force: (node, index, entry) => this.force(node, index, entry),
    timeline: (node) => this.timeline(node),
  };

  // ---- what a user does

  /** Send a message. */
  send(content) {
    const fields = this.#fields();
    if (!fields) return false;
    addNode(this.conversation, this.conversation.leaf, { role: "user", content });
    this.#answer(this.conversation.leaf, fields);
    return true;
  }

  /** Change a message: a branch with another text, and for a user's message with another answer. */
  edit(node, content) {
    const fields = node.role === "user" ? this.#fields() : null;
    if (node.role === "user" && !fields) return;
    addNode(this.conversation, node.parent, { role: node.role, content });
    if (fields) this.#answer(this.conversation.leaf, fields);
    else this.#keep();
  }

  /** Another answer in a branch of its own; without a message: to the last one. */
  again(node = path(this.conversation).at(-1)) {
    const fields = node && this.#fields();
    if (fields) this.#answer(node.role === "user" ? node.id : node.parent, fields);
  }

  /** Go on with an answer where it ended. */
  goOn(node) {
    const fields = this.#continued();
    if (fields) this.#run(node, fields);
  }

  /** Show the branch before or after that of a message. */
  step(node, by) {
    const branches = siblings(this.conversation, node);
    const other = branches[branches.indexOf(node) + by];
    showBranch(this.conversation, other);
    this.#keep();
    const steps = [...this.#item(other).branch.querySelectorAll("button:enabled")];
    (steps.find((one) => one.dataset.step === String(by)) ?? steps[0])?.focus();
  }

  /** Go on from a token of an answer with another one in its place, and with the seed of the answer. */
  force(node, index, entry) {
    const fields = this.#continued();
    if (!fields) return;
    const content = forcedText(node, index, tokensOf(node), entry);
    const { reasoning, parent, facts } = node;
    const branch = addNode(this.conversation, parent, {
      role: "assistant",
      content,
      ...(reasoning ? { reasoning } : {}),
    });
    addTokens(branch, replacedTokens(node, index, entry));
    this.#run(branch, { ...fields, seed: facts?.seed ?? fields.seed });
  }

  /** Offer the timeline of an answer as a file for ui.perfetto.dev. */
  async timeline(node) {
    try {
      download(
        "timeline.json",
        await getText(`v1/requests/${encodeURIComponent(node.facts.request)}/trace?format=perfetto`),
      );
    } catch (error) {
      showError(error); // the server keeps the latest ones only
    }
  }

  /** Stop the answer that is being written; whether there was one. */
  stop() {
    this.running?.abort();
    return Boolean(this.running);
  }

  // ---- answers

  /** The fields of a request; null: the page is busy, or a setting is invalid and the error is shown. */
  #fields() {
    if (this.running) return null;
    try {
      showError(null);
      return requestFields();
    } catch (error) {
      showError(error);
      return null;
    }
  }

  #continued() {
    const fields = this.#fields();
    if (!fields?.response_format) return fields && { ...fields, continue_final_message: true };
    showError("An answer with a JSON schema cannot be continued: the schema describes the whole answer.");
    return null;
  }

  #answer(parent, fields) {
    this.#run(addNode(this.conversation, parent, { role: "assistant", content: "" }), fields);
  }

  /** Let the model write, or go on with, a message. */
  async #run(node, fields) {
    const { conversation } = this;
    const controller = (this.running = new AbortController());
    const before = path(conversation);
    if (!fields.continue_final_message) before.pop();
    const body = { ...fields, messages: messages(before, systemPrompt()) };
    const item = this.#item(node);
    if (tokensOf(node).length || (!node.content && wantsProbabilities())) {
      Object.assign(body, { logprobs: true, top_logprobs: 10 });
      item.showTokens();
    }
    this.#begin();
    try {
      await generate(node, body, controller.signal, () => this.#draw(item));
    } catch (error) {
      showError(error);
      document.dispatchEvent(new CustomEvent("api-error", { detail: error }));
    }
    this.#end(conversation, item);
    await learnMore(node.facts);
    item.finish();
    if (node.facts.timeline) this.show(); // with its button
    if (conversation.nodes.includes(node)) this.#save(conversation);
  }

  #begin() {
    this.follow = true;
    byId("send").hidden = true;
    byId("stop").hidden = false;
    announce("The model answers.");
    this.show();
  }

  #end(conversation, item) {
    clearTimeout(this.timer);
    this.timer = this.running = null;
    const { node } = item;
    item.grow();
    item.finish();
    if (!node.content && !node.reasoning) {
      dropNode(conversation, node);
      this.items.delete(node.id); // the next message gets this number
    }
    byId("send").hidden = false;
    byId("stop").hidden = true;
    announce(`The answer has ended: ${node.facts.shown ?? 0} tokens.`);
    this.#keep(conversation);
  }

  /** Draw an answer soon; it may have grown several times until then. */
  #draw(item) {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      const begin = performance.now();
      item.grow();
      this.#scroll();
      this.pause = Math.max(FASTEST, SHARE * (performance.now() - begin));
    }, this.pause);
  }

  #keep(conversation = this.conversation) {
    this.#save(conversation);
    this.onKept();
    this.show();
  }

  #save(conversation) {
    try {
      saveConversation(conversation);
    } catch (error) {
      showError(error);
    }
  }

  #atEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
  }

  #scroll() {
    if (this.follow) this.log.scrollTop = this.log.scrollHeight;
  }
}
