// As much of a document as the page's view of growing Markdown needs, and that view in it.

class FakeNode {
  constructor() {
    this.parent = null;
  }

  before(...nodes) {
    const place = this.parent.children.indexOf(this);
    for (const node of nodes) node.parent = this.parent;
    this.parent.children.splice(place, 0, ...nodes);
  }
}

class FakeText extends FakeNode {
  constructor(data) {
    super();
    this.data = data;
  }

  appendData(data) {
    this.data += data;
  }
}

class FakeElement extends FakeNode {
  constructor(tag) {
    super();
    Object.assign(this, { tag, children: [], attributes: {} });
  }

  setAttribute(name, value) {
    this.attributes[name] = value;
  }

  append(...nodes) {
    for (const node of nodes) node.parent = this;
    this.children.push(...nodes);
  }

  replaceChildren(...nodes) {
    this.children = [];
    this.append(...nodes);
  }

  querySelector(tag) {
    for (const child of this.children) {
      const found = child.tag === tag ? child : child.querySelector?.(tag);
      if (found) return found;
    }
    return null;
  }
}

const counts = { made: 0 };
globalThis.Node = FakeNode;
globalThis.document = {
  createElement: (tag) => (counts.made++, new FakeElement(tag)),
  createTextNode: (data) => new FakeText(data),
};

const page = "../../packages/pyml-nlp/src/pyml_nlp/server/page";
const { MarkdownView: View } = await import(`${page}/markdown_view.js`);

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function html(node) {
  if (node instanceof FakeText) return escape(node.data);
  const inside = node.children.map(html).join("");
  if (node.attributes.class === "tail") return inside;
  const written = Object.entries(node.attributes).map(([name, value]) => ` ${name}="${escape(value)}"`);
  return ["br", "hr"].includes(node.tag) ? `<${node.tag}>` : `<${node.tag}${written.join("")}>${inside}</${node.tag}>`;
}

/** The page's view, which counts the elements it makes and tells its content. */
export class MarkdownView extends View {
  constructor() {
    counts.made = 0;
    super(new FakeElement("div"));
  }

  get made() {
    return counts.made;
  }

  /** Without the last line break of code, which an open block may not have yet. */
  html() {
    return this.container.children
      .map(html)
      .join("")
      .replace(/\n(?=<\/code><\/pre>)/g, "");
  }
}
