// Models without a chat template: the messages are one text, which the model goes on with.

const MOST_TOKENS = 256; // of an answer without a limit; such a model seldom ends by itself

/** The body of a completion from that of a chat. A message of a user begins a line, except for the first. */
export function completionBody({
  messages,
  continue_final_message,
  reasoning_effort,
  top_logprobs,
  logprobs,
  ...fields
}) {
  const texts = messages.map(({ role, content }, number) => (role === "user" && number ? `\n${content}` : content));
  return { max_tokens: MOST_TOKENS, ...fields, prompt: texts.join(""), logprobs: logprobs ? top_logprobs : null };
}

/** A chunk of a completion as one of a chat. */
export function asChatChunk(chunk) {
  const choices = chunk.choices.map(({ text, logprobs, finish_reason }) => {
    return {
      delta: text ? { content: text } : {},
      logprobs: logprobs && { content: entries(logprobs) },
      finish_reason,
    };
  });
  return { ...chunk, choices };
}

function entries({ tokens, token_logprobs: own, top_logprobs: top }) {
  return tokens.map((token, number) => {
    const others = Object.entries(top?.[number] ?? {}).map(([text, logprob]) => entry(text, logprob));
    return { ...entry(token, own[number]), top_logprobs: others };
  });
}

/** A token with its bytes; one that is not whole characters is written `bytes:\xe2\x99`. */
function entry(token, logprob) {
  const parts = /^bytes:((?:\\x[0-9a-f]{2})+)$/.exec(token);
  if (!parts) return { token, logprob, bytes: [...new TextEncoder().encode(token)] };
  return {
    token: "\ufffd",
    logprob,
    bytes: parts[1]
      .split("\\x")
      .slice(1)
      .map((hex) => Number.parseInt(hex, 16)),
  };
}
