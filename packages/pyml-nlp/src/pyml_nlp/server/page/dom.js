// Elements from trees, [tag, attributes or null, ...children], and small helpers. Texts become text nodes, never markup.

/** The element of a tree. Children may be texts, trees, or nodes that exist; false and null are left out. */
export function build(tree) {
  if (typeof tree === "string") return document.createTextNode(tree);
  if (tree instanceof Node) return tree;
  const [tag, attributes, ...children] = tree;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const child of children) if (child || child === "") element.append(build(child));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** A button that calls a function. */
export const button = (text, onClick, more = {}) =>
  build(["button", { type: "button", click: onClick, ...more }, text]);

/** Tell users of screen readers, once, politely. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Show an error above the composer until the next one, or until it is closed. */
export function showError(error) {
  const box = byId("error");
  box.querySelector("span").textContent = error ? String(error.message ?? error) : "";
  box.hidden = !error;
}

/** Put a text on the clipboard; the button says so for a moment. */
export async function copyText(text, source) {
  const before = source.textContent;
  try {
    await navigator.clipboard.writeText(text);
    source.textContent = "Copied";
  } catch {
    source.textContent = "Not allowed"; // browsers refuse pages that came by http from another machine
  }
  announce(source.textContent);
  setTimeout(() => (source.textContent = before), 1500);
}

/** Offer a text as a file. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  build(["a", { href: url, download: name }]).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
