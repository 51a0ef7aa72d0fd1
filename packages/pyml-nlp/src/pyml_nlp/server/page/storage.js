// Conversations as trees of messages, and where they are kept: in this browser, one item each.

const PREFIX = "pyml.chat.";

/** A conversation without messages. */
export function newConversation() {
  return {
    id: crypto.getRandomValues(new Uint32Array(2)).join("-"),
    title: "",
    updated: Date.now(),
    leaf: null,
    nodes: [],
  };
}

/** Add a message after another one (null: at the beginning), and show it. */
export function addNode(conversation, parent, fields) {
  const node = { id: conversation.nodes.length, parent, ...fields };
  conversation.nodes.push(node);
  conversation.leaf = node.id;
  if (!conversation.title && node.role === "user") conversation.title = titleOf(node.content);
  return node;
}

/** Remove the message that was added last. */
export function dropNode(conversation, node) {
  if (conversation.nodes.at(-1) !== node) return;
  conversation.nodes.pop();
  if (conversation.leaf === node.id) conversation.leaf = node.parent;
}

function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** The messages that are shown: from the first one to the leaf. */
export function path(conversation) {
  const found = [];
  for (let id = conversation.leaf; id !== null; id = conversation.nodes[id].parent) found.push(conversation.nodes[id]);
  return found.reverse();
}

/** A message and the others that take its place in other branches, oldest first. */
export function siblings(conversation, node) {
  return conversation.nodes.filter((other) => other.parent === node.parent);
}

/** Show the branch of a message, down to its newest end. */
export function showBranch(conversation, node) {
  for (let next = node; next; next = conversation.nodes.filter((other) => other.parent === conversation.leaf).at(-1)) {
    conversation.leaf = next.id;
  }
}

/** Messages as the API and `pyml chat --load` take them. */
export function messages(nodes, system = "") {
  const found = nodes.map(({ role, content, reasoning }) => ({
    role,
    content,
    ...(reasoning ? { reasoning_content: reasoning } : {}),
  }));
  return system ? [{ role: "system", content: system }, ...found] : found;
}

/** A conversation and its system prompt from messages as a file has them. Throws an Error that says what is wrong. */
export function fromMessages(list) {
  if (!Array.isArray(list) || !list.length) throw new Error("The file is not a list of messages.");
  const conversation = newConversation();
  let system = "";
  for (const [number, message] of list.entries()) {
    const { role, content } = message ?? {};
    if (typeof content !== "string") throw new Error(`messages[${number}]: expected a content that is a text.`);
    if (number === 0 && ["system", "developer"].includes(role)) {
      system = content;
      continue;
    }
    if (role !== "user" && role !== "assistant") {
      throw new Error(
        `messages[${number}]: expected the role user or assistant, found ${JSON.stringify(role)?.slice(0, 40)}.`,
      );
    }
    const reasoning = message.reasoning_content;
    addNode(conversation, conversation.leaf, {
      role,
      content,
      ...(typeof reasoning === "string" ? { reasoning } : {}),
    });
  }
  if (!conversation.nodes.length) throw new Error("The file has no message of a user.");
  return [conversation, system];
}

// ---- the browser's storage

/** Ids, titles and times of all conversations, newest first. */
export function listConversations() {
  const found = [];
  for (let i = 0; i < localStorage.length; i++) {
    const key = localStorage.key(i);
    const kept = key.startsWith(PREFIX) ? readItem(key) : null;
    if (Array.isArray(kept?.nodes)) found.push({ id: kept.id, title: kept.title, updated: kept.updated });
  }
  return found.sort((a, b) => b.updated - a.updated);
}

export const loadConversation = (id) => readItem(PREFIX + id);

/** Keep a conversation. Throws an Error if the browser has no more room. */
export function saveConversation(conversation) {
  if (!conversation.nodes.length) return;
  conversation.updated = Date.now();
  writeItem(PREFIX + conversation.id, conversation);
}

export const deleteConversation = (id) => localStorage.removeItem(PREFIX + id);

/** A value that was kept; null: there is none, or it cannot be read. */
export function readItem(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** Keep a value. Throws an Error if the browser has no more room. */
export function writeItem(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    throw new Error("The browser's storage is full: this chat is not kept. Export it, or delete others.");
  }
}
