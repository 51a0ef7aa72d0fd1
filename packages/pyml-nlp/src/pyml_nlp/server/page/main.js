// The page: its panels, keys, list of chats, and the model's facts.

import { apiKey, getJson } from "./api.js";
import { Chat } from "./chat.js";
import { announce, build, button, byId, copyText, download, showError } from "./dom.js";
import { model } from "./generation.js";
import { closeAlternatives } from "./probabilities.js";
import { setSystemPrompt, startSettings, systemPrompt } from "./settings.js";
import {
  deleteConversation,
  fromMessages,
  listConversations,
  loadConversation,
  messages,
  newConversation,
  path,
  saveConversation,
} from "./storage.js";
import { showStrip } from "./strip.js";

const RETRY = 2000; // ms until a server that loads its model is asked again
const input = byId("input");
const chat = new Chat(listChats);

// ---- panels

function showPanel(name, shown = byId(name).hidden) {
  byId(name).hidden = !shown;
  byId(`show-${name}`).setAttribute("aria-expanded", String(shown));
  document.body.classList.toggle(`with-${name}`, shown);
  if (name === "strip") showStrip(shown);
}

for (const name of ["chats", "facts", "strip", "settings"])
  byId(`show-${name}`).addEventListener("click", () => showPanel(name));
const narrow = window.matchMedia("(max-width: 820px)");
showPanel("chats", !narrow.matches);

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("pyml.theme", theme);
  byId("theme").value = theme;
}

byId("theme").addEventListener("change", ({ target }) => setTheme(target.value));
setTheme(localStorage.getItem("pyml.theme") ?? "auto");
startSettings();

// ---- the composer

function send() {
  const text = input.value.trim();
  if (!text || !chat.send(text)) return;
  input.value = "";
  fitInput();
}

function fitInput() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight + 2, window.innerHeight / 3)}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("stop").addEventListener("click", () => (chat.stop(), input.focus()));
byId("error")
  .querySelector("button")
  .addEventListener("click", () => showError(null));
input.addEventListener("input", fitInput);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !input.value) {
    const nodes = path(chat.conversation).filter((node) => node.role === "user");
    if (nodes.length && !chat.running) chat.items.get(nodes.at(-1).id).edit();
    event.preventDefault();
  }
});
byId("messages").addEventListener("click", ({ target }) => {
  if (target.matches(".copy-code")) copyText(target.closest(".code").querySelector("code").textContent, target);
});

// ---- chats

function listChats() {
  const items = listConversations().map(({ id, title }) => {
    const current = id === chat.conversation.id;
    const open = button(title || "Chat", () => openChat(loadConversation(id)), {
      "aria-current": current ? "true" : null,
    });
    const remove = button("×", () => removeChat(id, title), { "aria-label": `Delete ${title}`, title: "Delete" });
    return build(["li", null, open, remove]);
  });
  byId("chat-list").replaceChildren(...items);
}

function openChat(conversation) {
  if (!conversation) return listChats(); // another tab has deleted it
  chat.open(conversation);
  showError(null);
  listChats();
  if (narrow.matches) showPanel("chats", false);
  input.focus();
}

function removeChat(id, title) {
  if (!window.confirm(`Delete “${title}”?`)) return;
  deleteConversation(id);
  if (id === chat.conversation.id) openChat(newConversation());
  else listChats();
}

byId("new-chat").addEventListener("click", () => openChat(newConversation()));
byId("export").addEventListener("click", () => {
  const list = messages(path(chat.conversation), systemPrompt());
  if (list.length) download("messages.json", JSON.stringify(list, null, 2) + "\n");
});
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  target.value = "";
  try {
    const [conversation, system] = fromMessages(JSON.parse(await file.text()));
    saveConversation(conversation);
    openChat(conversation);
    setSystemPrompt(system);
  } catch (error) {
    showError(`${file.name}: ${error.message}`);
  }
});

// ---- keys

const SHORTCUTS = {
  n: () => openChat(newConversation()),
  r: () => chat.again(),
  c: () => showPanel("chats"),
  s: () => showPanel("settings"),
  i: () => showPanel("strip"),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape") escape();
  else if (event.altKey && !event.ctrlKey && !event.metaKey && SHORTCUTS[event.code.replace("Key", "").toLowerCase()]) {
    event.preventDefault();
    SHORTCUTS[event.code.replace("Key", "").toLowerCase()]();
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    input.focus();
  } else if (!typing && event.key === "?") byId("keys").showModal();
});
byId("close-keys").addEventListener("click", () => byId("keys").close());

/** Close or stop one thing: what is on top first. */
function escape() {
  if (closeAlternatives(true) || chat.stop()) return;
  if (!byId("error").hidden) showError(null);
  else if (narrow.matches) for (const name of ["chats", "settings"]) showPanel(name, false);
}

// ---- the key, and the model

byId("key").value = apiKey.get();
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey.set(byId("key").value.trim());
  showError(null);
  showModel();
});
document.addEventListener("api-error", ({ detail }) => detail.status === 401 && askForKey());

function askForKey() {
  showPanel("settings", true);
  byId("key").focus();
}

let waiting = false; // for a server that does not answer yet

async function showModel() {
  const toggle = byId("show-facts");
  try {
    const asked = ["v1/models", "version", "tokenizer_info"].map((path) => getJson(path));
    const [{ data }, { version }, { chat_template: template }] = await Promise.all(asked);
    showKind(template === null);
    const { id, meta, max_model_len: length, ...others } = data[0];
    toggle.textContent = id;
    toggle.setAttribute("aria-label", `Facts about the model ${id}`);
    const facts = { ...flat({ ...meta, ...others }), "context length": length, pyml: version };
    if (model.plain) facts["chat template"] = "none";
    for (const name of ["object", "created", "owned by", "n ctx"]) delete facts[name];
    const items = Object.entries(facts).map(([name, value]) => [
      "div",
      null,
      ["dt", null, name],
      ["dd", null, shown(value, name)],
    ]);
    byId("facts").firstElementChild.replaceChildren(...items.map(build));
    announce(`The model ${id} is ready.`);
    if (waiting) showError(null);
    waiting = false;
  } catch (error) {
    showError(error);
    if (error.status === 401) askForKey();
    else if (error.status === 503 || error.status === 0) {
      toggle.textContent = "waiting for the model …";
      waiting = true;
      setTimeout(showModel, RETRY);
    }
  }
}

/** Tell what the model does with a text. */
function showKind(plain) {
  model.plain = plain;
  const [lead] = byId("empty").children;
  lead.textContent = plain ? "Begin a text: the model goes on with it." : "Ask the model something.";
  input.placeholder = plain ? "Text to go on with" : "Message";
}

/** Facts by name; those of an inner object with its name before theirs. */
function flat(values, before = "") {
  const found = {};
  for (const [key, value] of Object.entries(values)) {
    const name = (before + key).replaceAll("_", " ").replace("n params", "parameters");
    if (value && typeof value === "object" && !Array.isArray(value)) Object.assign(found, flat(value, `${name} `));
    else if (value != null && value !== "") found[name] = value;
  }
  return found;
}

function shown(value, name) {
  if (name === "size") return `${(value / 1e6).toFixed(0)} MB`;
  if (typeof value === "number") return value.toLocaleString("en");
  return Array.isArray(value) ? value.join(", ") : String(value);
}

listChats();
fitInput();
input.focus();
showModel();
