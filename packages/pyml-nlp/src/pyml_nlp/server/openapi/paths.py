"""The routes of the server, as OpenAPI's path items."""

from __future__ import annotations

from typing import Any, NamedTuple

from .forms import TEXT, Schema, one_of, ref

ERROR, MESSAGES_ERROR, OLLAMA_ERROR = "Error", "MessagesError", "OllamaError"

_REFUSED = {
    "400": "The request is invalid, or cannot be honoured.",
    "401": "The API key is missing or not valid.",
    "403": "The host, or the origin of the page, is not allowed.",
    "404": "The model, or what the path names, does not exist.",
    "431": "The headers are too large.",
    "500": "A fault of the server.",
    "503": "The server is loading, draining or full; `retry-after` tells when to try again.",
}
_BODY_REFUSED = {
    "408": "The request came too slowly.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "501": "Not supported by the model that is served.",
    "504": "The request's time is over.",
}


class Operation(NamedTuple):
    """A route.

    Attributes:
        method, path: of it.
        summary: a line about it.
        answer: name of the schema of its answer; empty: it has none, or is no JSON.
        body: name of the schema of its body; empty: it reads none.
        tag: of the API that it belongs to.
        error: name of the schema of its errors.
        chunk: name of the schema of an element of its stream; empty: it does not stream.
        stream: content type of the stream, or of an answer that is no JSON.
        public: whether it needs no key.
    """

    method: str
    path: str
    summary: str
    answer: str = ""
    body: str = ""
    tag: str = "openai"
    error: str = ERROR
    chunk: str = ""
    stream: str = "text/event-stream"
    public: bool = False


_NDJSON = "application/x-ndjson"

OPERATIONS = (
    Operation("post", "/v1/chat/completions", "Answer a chat", "ChatAnswer", "ChatRequest", chunk="ChatChunk"),
    Operation("post", "/v1/chat/completions/input_tokens", "Count the tokens of a chat", "InputTokens", "ChatRequest"),
    Operation("post", "/v1/completions", "Continue prompts", "CompletionAnswer", "CompletionRequest",
              chunk="CompletionChunk"),
    Operation("post", "/v1/responses", "Answer an input", "Response", "ResponsesRequest", chunk="ResponseEvent"),
    Operation("post", "/v1/responses/input_tokens", "Count the tokens of an input", "InputTokens", "ResponsesRequest"),
    Operation("post", "/v1/embeddings", "Vectors of texts, by an embedding model", "Embeddings", "EmbeddingsRequest"),
    Operation("get", "/v1/models", "The served model, in a list", "Models"),
    Operation("get", "/v1/models/{name}", "The served model", "Model"),
    Operation("post", "/v1/messages", "Answer messages", "MessagesAnswer", "MessagesRequest", "anthropic",
              MESSAGES_ERROR, "MessagesEvent"),
    Operation("post", "/v1/messages/count_tokens", "Count the tokens of messages", "MessagesTokens", "MessagesCount",
              "anthropic", MESSAGES_ERROR),
    Operation("post", "/api/chat", "Answer a chat", "OllamaChatAnswer", "OllamaChatRequest", "ollama", OLLAMA_ERROR,
              "OllamaChatAnswer", _NDJSON),
    Operation("post", "/api/generate", "Continue a prompt", "OllamaGenerateAnswer", "OllamaGenerateRequest", "ollama",
              OLLAMA_ERROR, "OllamaGenerateAnswer", _NDJSON),
    Operation("get", "/api/tags", "The served model, in a list", "OllamaModels", "", "ollama", OLLAMA_ERROR),
    Operation("get", "/api/ps", "The loaded model, in a list", "OllamaModels", "", "ollama", OLLAMA_ERROR),
    Operation("get", "/api/version", "The version of the API", "OllamaVersion", "", "ollama", OLLAMA_ERROR),
    Operation("post", "/api/show", "The served model", "OllamaModel", "OllamaName", "ollama", OLLAMA_ERROR),
    Operation("post", "/api/embed", "Vectors of texts, by an embedding model", "OllamaEmbeddings",
              "OllamaEmbedRequest", "ollama", OLLAMA_ERROR),
    Operation("post", "/api/embeddings", "The vector of a text, by an embedding model", "OllamaEmbedding",
              "OllamaPromptRequest", "ollama", OLLAMA_ERROR),
    Operation("post", "/v1/score", "Log probabilities of the tokens of a prompt", "ScoreAnswer", "ScoreRequest",
              "tokens"),
    Operation("post", "/tokenize", "The tokens of a text or of messages", "TokenizeAnswer", "TokenizeRequest",
              "tokens"),
    Operation("post", "/detokenize", "The text of tokens", "DetokenizeAnswer", "DetokenizeRequest", "tokens"),
    Operation("post", "/apply-template", "The prompt of messages", "TemplateAnswer", "TemplateRequest", "tokens"),
    Operation("get", "/tokenizer_info", "The tokenizer", "TokenizerInfo", "", "tokens"),
    Operation("get", "/health", "Whether the model is loaded and works", "State", "", "server", public=True),
    Operation("get", "/ready", "Whether requests are answered", "State", "", "server", public=True),
    Operation("get", "/version", "The version of pyml", "Version", "", "server"),
    Operation("get", "/openapi.json", "This document", "", "", "server", stream="application/json"),
    Operation("get", "/metrics", "Metrics for Prometheus", "", "", "server", stream="text/plain"),
    Operation("get", "/v1/requests", "Requests with texts that run, and the latest that have ended", "Requests", "",
              "server"),
    Operation("post", "/v1/requests/{name}/cancel", "End the texts of a request", "Cancelled", "", "server"),
    Operation("get", "/v1/requests/{name}/trace", "The timeline of a request", "Timeline", "", "server"),
    Operation("get", "/v1/trace/live", "The calls of the model as they happen", "", "", "server"),
    Operation("post", "/admin/reload", "Load the model again, or another one", "ReloadAnswer", "ReloadRequest",
              "server"),
)  # fmt: skip
"""All routes but the page's. Those that begin with ``/v1`` answer without it, too."""


def path_items() -> dict[str, Any]:
    """The routes by path and method."""
    found: dict[str, Any] = {}
    for one in OPERATIONS:
        found.setdefault(one.path, {})[one.method] = _operation(one)
    return found


def _operation(one: Operation) -> Schema:
    made: Schema = {
        "summary": one.summary,
        "operationId": f"{one.method}{one.path}".replace("/", "_").replace("{", "").replace("}", ""),
        "tags": [one.tag],
        "responses": {"200": _answered(one), **_refusals(one)},
    }
    parameters = []
    if "{name}" in one.path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {**TEXT, "minLength": 1}})
    if one.path.endswith("/trace"):
        parameters.append({"name": "format", "in": "query", "schema": one_of("json", "perfetto")})
    if parameters:
        made["parameters"] = parameters
    if one.body:
        body = {"application/json": {"schema": ref(one.body)}}
        made["requestBody"] = {"required": one.path != "/admin/reload", "content": body}
    if one.public:
        made["security"] = []
    return made


def _answered(one: Operation) -> Schema:
    content: Schema = {}
    if one.answer:
        content["application/json"] = {"schema": ref(one.answer)}
    if one.chunk:
        text = f"With `stream`: each event has a `{one.chunk}`, see the schemas."
        if one.stream == _NDJSON:
            text = f"With `stream`: each line is a `{one.chunk}`, see the schemas."
        content[one.stream] = {"schema": {**TEXT, "description": text}}
    elif not one.answer:
        content[one.stream] = {"schema": {"type": "object"} if one.stream == "application/json" else TEXT}
    return {"description": "The answer.", "content": content}


def _refusals(one: Operation) -> Schema:
    reasons = {**_REFUSED, **(_BODY_REFUSED if one.method == "post" else {})}
    content = {"application/json": {"schema": ref(one.error)}}
    return {status: {"description": text, "content": content} for status, text in sorted(reasons.items())}
