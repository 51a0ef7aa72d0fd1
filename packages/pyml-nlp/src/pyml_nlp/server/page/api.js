// The server's API: JSON, streams of events, and the key.

const KEY = "pyml.key";

/** A request that was not answered as asked. */
export class ApiError extends Error {
  constructor(status, message, { param = null, code = null } = {}) {
    super(param && !message.startsWith(param) ? `${param}: ${message}` : message);
    this.status = status;
    this.code = code;
  }
}

/** Ids of the requests of this page. */
export const ownRequests = new Set();

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** Send a request; the response is one of success. */
async function send(path, { body, signal } = {}) {
  const headers = {};
  if (apiKey.get()) headers.authorization = `Bearer ${apiKey.get()}`;
  if (body) headers["content-type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, signal, cache: "no-store" };
  if (body) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const error = answer.error ?? {};
  throw new ApiError(response.status, error.message ?? `The server answered with status ${response.status}.`, error);
}

export async function getJson(path, signal) {
  return (await send(path, { signal })).json();
}

export async function getText(path) {
  return (await send(path)).text();
}

/** Call `onEvent(data, name)` with the text of each event of a stream, until it ends. */
export async function listen(path, { body, signal, onStart, onEvent }) {
  const response = await send(path, { body, signal });
  onStart?.(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let [data, name] = [[], "message"];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (let line of lines) {
      if (line.endsWith("\r")) line = line.slice(0, -1);
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (!line) {
        if (data.length) onEvent(data.join("\n"), name);
        [data, name] = [[], "message"];
      }
    }
  }
}

/** Stream an answer: `onStart(response)`, then `onChunk(chunk)` for each of its chunks. */
export async function streamAnswer(path, body, { signal, onStart, onChunk }) {
  let ended = false;
  const onEvent = (data) => {
    if (data === "[DONE]") {
      ended = true;
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(200, chunk.error.message ?? "The answer has failed.", chunk.error);
    onChunk(chunk);
  };
  const options = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  await listen(path, { body: { ...body, ...options }, signal, onStart, onEvent });
  if (!ended) throw new ApiError(0, "The connection ended before the answer did.");
}
