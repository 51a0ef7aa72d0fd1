// One answer: from the request to its last chunk, with what is known about its time.

import { getJson, ownRequests, streamAnswer } from "./api.js";
import { asChatChunk, completionBody } from "./plain.js";
import { addTokens } from "./probabilities.js";

/** What is known about the model: `plain`, it has no chat template. */
export const model = { plain: false };

/**
 * Stream an answer into a message, whose text grows; what it has already is what it goes on from.
 *
 * @param {object} node the message: `content`, `reasoning` and `facts` are set.
 * @param {object} body of the request.
 * @param {AbortSignal} signal stops it.
 * @param {() => void} onChange is called after each chunk.
 */
export async function generate(node, body, signal, onChange) {
  const clock = { sent: performance.now(), first: 0, last: 0, chunks: 0 };
  const facts = (node.facts = { seed: body.seed });
  const onStart = (response) => {
    facts.request = response.headers.get("x-request-id");
    ownRequests.add(facts.request);
  };
  const onChunk = (chunk) => {
    if (chunk.usage) readUsage(facts, chunk.usage);
    if (chunk.pyml) facts.queue = chunk.pyml.queue_ms;
    const choice = chunk.choices[0];
    if (choice) readChoice(node, choice, clock);
    readClock(facts, clock);
    onChange();
  };
  try {
    if (model.plain) {
      const onPlain = (chunk) => onChunk(asChatChunk(chunk));
      await streamAnswer("v1/completions", completionBody(body), { signal, onStart, onChunk: onPlain });
    } else await streamAnswer("v1/chat/completions", body, { signal, onStart, onChunk });
  } catch (error) {
    facts.finish = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) throw error;
  }
}

/** Ask the server what it alone knows about an answer that has ended: drafts, and whether it kept a timeline. */
export async function learnMore(facts) {
  if (!facts.request) return;
  try {
    const { running, recent } = await getJson("v1/requests");
    const own = [...running, ...recent].find(({ id }) => id === facts.request);
    if (own) Object.assign(facts, { drafted: own.drafted, accepted: own.accepted, timeline: own.traced });
  } catch {
    // it has ended meanwhile; the answer is complete without this
  }
}

function readUsage(facts, usage) {
  facts.promptTokens = usage.prompt_tokens;
  facts.cached = usage.prompt_tokens_details?.cached_tokens;
  facts.tokens = usage.completion_tokens;
}

function readChoice(node, choice, clock) {
  const { content, reasoning_content: reasoning } = choice.delta;
  const entries = choice.logprobs?.content ?? [];
  if (content) node.content += content;
  if (reasoning) node.reasoning = (node.reasoning ?? "") + reasoning;
  if (entries.length) addTokens(node, entries);
  if (choice.finish_reason) node.facts.finish = choice.finish_reason;
  if (!content && !reasoning && !entries.length) return;
  clock.last = performance.now();
  clock.first ||= clock.last;
  clock.chunks += entries.length || 1;
}

function readClock(facts, { sent, first, last, chunks }) {
  if (!first) return;
  facts.ttft = first - sent;
  const tokens = facts.tokens ?? chunks; // without counts of the server: a chunk has at least one
  if (last > first && tokens > 1) facts.rate = ((tokens - 1) * 1000) / (last - first);
  facts.shown = tokens;
}

/** What is known about an answer, as short texts with explanations. */
export function describe(facts) {
  const found = [];
  const add = (text, title) => found.push({ text, title });
  if (facts.queue >= 10)
    add(`waited ${duration(facts.queue)}`, "For a place among the texts that are written at a time");
  if (facts.ttft) add(`first token ${duration(facts.ttft)}`, "From sending the request to the first text");
  if (facts.promptTokens) {
    const reused = facts.cached ? `, ${number(facts.cached)} reused` : "";
    add(`prompt ${number(facts.promptTokens)}${reused}`, "Tokens of the prompt; those reused were not computed again");
  }
  if (facts.shown) add(`${number(facts.shown)} tokens`, "Tokens of the answer");
  if (facts.rate) add(`${facts.rate.toFixed(facts.rate < 20 ? 1 : 0)} tokens/s`, "After the first token");
  if (facts.drafted)
    add(
      `${facts.accepted} of ${facts.drafted} drafted`,
      "Tokens that were guessed and checked, and those that were right",
    );
  if (facts.seed !== undefined)
    add(`seed ${facts.seed}`, "With this seed and the same settings the answer is the same");
  if (facts.finish) add(FINISHES[facts.finish] ?? facts.finish, "Why the answer ended");
  return found;
}

const FINISHES = {
  stop: "complete",
  length: "limit of tokens",
  stopped: "stopped",
  failed: "failed",
  tool_calls: "calls",
};

const number = (value) => value.toLocaleString("en");
const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
