// "Inside": where the time of the model goes, as the server tells it in /v1/trace/live. It is asked only while shown.

import { listen, ownRequests } from "./api.js";
import { build, byId } from "./dom.js";

const KEPT = 60; // calls in the history
const MEAN = 8; // last calls that the table is about
const RETRY = 2000; // ms until a stream that has ended is opened again

const root = byId("strip");
let watching = null; // stops the stream
let state = null; // of the stream: what the server said first, and its last calls

/** Show or hide the strip. */
export function showStrip(shown) {
  watching?.abort();
  watching = shown ? new AbortController() : null;
  if (shown) watch(watching.signal);
}

async function watch(signal) {
  while (!signal.aborted) {
    state = { hello: null, calls: [] };
    say("Waiting for the server …");
    try {
      await listen("v1/trace/live", { signal, onEvent: (data, name) => onEvent(JSON.parse(data), name) });
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 404) return say("The server does not tell: start it with pyml serve --live-trace.");
      say(error.message);
      if (error.status === 401) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
}

function say(text) {
  root.replaceChildren(build(["p", { class: "hint" }, text]));
}

function onEvent(data, name) {
  if (name === "hello") begin(data);
  else if (name === "idle") showSummary(data, "idle");
  else if (name === "run") addCall(data);
}

/** Lay the strip out. */
function begin(hello) {
  state.hello = hello;
  state.summary = build(["p", { class: "summary" }, `${hello.threads} threads: nothing to compute`]);
  state.history = build([
    "div",
    { class: "history", role: "img", "aria-label": "Shares of the last calls of the model" },
  ]);
  state.parts = build(["tbody", null]);
  state.lanes = build(["ol", { class: "lanes", "aria-label": "Texts" }]);
  const head = ["Part", "Share", "ms", "GB/s", "GOP/s"].map((text) => ["th", { scope: "col" }, text]);
  const table = ["table", null, ["thead", null, ["tr", null, ...head]], state.parts];
  root.replaceChildren(
    state.summary,
    build(["div", { class: "panes" }, state.history, ["div", { class: "scroll", tabindex: "0" }, table], state.lanes]),
  );
}

function addCall(call) {
  if (!state.hello) return;
  state.calls.push(call);
  if (state.calls.length > KEPT) state.calls.shift();
  state.history.append(column(call));
  while (state.history.children.length > KEPT) state.history.firstChild.remove();
  showSummary(
    call,
    `${call.phase}: ${call.ms.toFixed(1)} ms for ${plural(call.runs, "run")}, ${plural(call.tokens, "token")}`,
  );
  showParts(state.calls.slice(-MEAN));
  showLanes(call);
}

/** One call as a column of its parts. */
function column(call) {
  const found = build(["div", { class: `column ${call.phase}`, title: `${call.phase}, ${call.ms.toFixed(1)} ms` }]);
  for (const part of call.parts) {
    const piece = build(["span", { class: `part ${part.name}` }]);
    piece.style.flexGrow = part.ms;
    found.append(piece);
  }
  return found;
}

function showSummary({ running, waiting, kv }, text) {
  if (!state.hello) return;
  const limit = kv?.limit_bytes ? ` of ${size(kv.limit_bytes)}` : "";
  const memory = kv ? ` · cache: ${size(kv.running_bytes)} in use, ${size(kv.prefix_bytes)} to reuse${limit}` : "";
  state.summary.textContent = `${text} · ${running} running, ${waiting} waiting${memory}`;
  if (text === "idle") state.lanes.replaceChildren();
}

/** The mean parts of calls, against what the machine can do. */
function showParts(calls) {
  const { parts, limits } = state.hello;
  const total = sum(calls.map((call) => call.ms)) || 1;
  const rows = parts.flatMap((name) => {
    const own = calls.flatMap((call) => call.parts.filter((part) => part.name === name));
    const ms = sum(own.map((part) => part.ms));
    if (ms < total / 1000) return [];
    const rate = (key) =>
      own.some((part) => part[key] != null) ? sum(own.map((part) => (part[key] ?? 0) * part.ms)) / ms : null;
    const [read, work] = [rate("gb_s"), rate("gop_s")];
    return [
      [
        "tr",
        null,
        ["th", { scope: "row" }, ["i", { class: `part ${name}` }], name.replaceAll("_", " ")],
        ["td", null, `${((100 * ms) / total).toFixed(0)} %`],
        ["td", null, (ms / calls.length).toFixed(2)],
        measured(read, limits?.read_gb_s),
        measured(work, limits?.int8_gop_s),
      ],
    ];
  });
  state.parts.replaceChildren(...rows.map(build));
}

/** A rate with its share of the machine's limit. */
function measured(value, limit) {
  if (value === null) return ["td", null, ""];
  const text = value.toFixed(value < 10 ? 1 : 0);
  if (!limit) return ["td", null, text];
  return [
    "td",
    { title: `${((100 * value) / limit).toFixed(0)} % of what the machine can do` },
    text,
    " ",
    ["meter", { min: "0", max: String(limit), value: String(value), "aria-hidden": "true" }],
  ];
}

/** A row for each text: those that wait, read their prompt, or write. */
function showLanes({ texts, queue }) {
  const writing = texts.map((text) => {
    const { prompt_done: done, prompt_total: total, reused, generated, drafted, accepted } = text;
    const drafts = drafted ? `, ${accepted} of ${drafted} drafted` : "";
    const said = text.phase === "prefill" ? `prompt ${done} of ${total}` : `${plural(generated, "token")}${drafts}`;
    const bar = [
      "meter",
      { min: "0", max: String(total || 1), value: String(done), title: `prompt: ${total} tokens, ${reused} reused` },
    ];
    return ["li", { class: text.phase }, ["span", null, nameOf(text)], bar, ["span", null, said]];
  });
  const waiting = queue.map((text) => {
    const said = `waits ${(text.ms / 1000).toFixed(1)} s, prompt ${text.prompt_total}`;
    return [
      "li",
      { class: "queued" },
      ["span", null, nameOf(text)],
      ["meter", { min: "0", max: "1", value: "0", "aria-hidden": "true" }],
      ["span", null, said],
    ];
  });
  state.lanes.replaceChildren(...[...writing, ...waiting].map(build));
}

const nameOf = ({ id, sequence }) => (id && ownRequests.has(id) ? "this page" : `text ${sequence}`);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const size = (bytes) =>
  bytes < 1e6
    ? `${(bytes / 1e3).toFixed(0)} kB`
    : bytes < 1e9
      ? `${(bytes / 1e6).toFixed(1)} MB`
      : `${(bytes / 1e9).toFixed(2)} GB`;
