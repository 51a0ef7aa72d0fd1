// Markdown that grows: finished blocks are appended once, only the last one is drawn again. Code is only ever appended.

import { build } from "./dom.js";
import { blocks, closes, codeLine, codeNode, fenceOf, parse } from "./markdown.js";

export class MarkdownView {
  /** @param {Element} container is filled. */
  constructor(container) {
    this.container = container;
    this.tail = build(["div", { class: "tail" }]);
    container.replaceChildren(this.tail);
    this.text = "";
    this.done = 0; // where the text begins that may still change
    this.code = null; // of the open block of code: its fence, and its two text nodes
  }

  /** Show a text that begins with the one before. */
  update(text) {
    this.text = text;
    while (this.code ? this.#growCode() : this.#finishBlocks());
    if (this.code) return;
    this.tail.replaceChildren(...parse(text.slice(this.done)).map(build));
  }

  /** Show the whole text: no more will come, at least for now. */
  finish(text) {
    this.update(text);
    const rest = text.slice(this.done);
    if (this.code && !closes(rest, this.code.fence)) this.code.partial.data = codeLine(rest, this.code.fence);
  }

  /** Append the blocks that cannot change any more; whether a block of code has begun. */
  #finishBlocks() {
    const end = this.text.lastIndexOf("\n") + 1;
    if (end <= this.done) return false;
    const lines = this.text.slice(this.done, end - 1).split("\n");
    const found = blocks(lines, 0);
    const last = found.pop();
    if (!last) return false;
    this.tail.before(...found.map(({ node }) => build(node)));
    this.done += lengthOf(lines, last.start);
    const fence = fenceOf(lines[last.start]);
    if (!fence) return false;
    this.done += lines[last.start].length + 1;
    const element = build(codeNode(fence.language, ""));
    const [text, partial] = [document.createTextNode(""), document.createTextNode("")];
    element.querySelector("code").replaceChildren(text, partial);
    this.tail.replaceChildren();
    this.tail.before(element);
    this.code = { fence, text, partial };
    return true;
  }

  /** Append lines of code; whether the block has ended. */
  #growCode() {
    const { fence, text, partial } = this.code;
    const end = this.text.lastIndexOf("\n") + 1;
    let added = "";
    let closed = false;
    while (this.done < end && !closed) {
      const line = this.text.slice(this.done, this.text.indexOf("\n", this.done));
      this.done += line.length + 1;
      closed = closes(line, fence);
      if (!closed) added += codeLine(line, fence) + "\n";
    }
    if (added) text.appendData(added);
    const rest = closed ? "" : this.text.slice(this.done);
    partial.data = /^ {0,3}[`~]*$/.test(rest) ? "" : codeLine(rest, fence); // it may be about to close
    if (closed) this.code = null;
    return closed;
  }
}

function lengthOf(lines, count) {
  let length = 0;
  for (let i = 0; i < count; i++) length += lines[i].length + 1;
  return length;
}
