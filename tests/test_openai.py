"""``lm.openai``: answers are those of ``generate``, ``score`` and ``chat``; streams add up to them."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_core.errors import Cancelled, PymlError
from pyml_nlp import ArgumentError, ContextOverflowError, LanguageModel

TEMPLATE = (
    "{{ tools }}{#- <tool_call> -#}{% for m in messages %}[{{ m.role }}]{{ m.content + ';' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = r'<tool_call>\n\{"name": "add", "arguments": \{"a": [1-9]\}\}\n</tool_call>'
HI = [{"role": "user", "content": [{"type": "text", "text": "the cat"}]}]


@pytest.fixture(scope="module")
def lm(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    folder = tmp_path_factory.mktemp("openai") / "model"
    shutil.copytree(tiny_dirs["llama"], folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


def choices(lm: LanguageModel, chunks: Iterator[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The choices of a stream, put together as a client does, after a look at each chunk."""
    found: dict[int, dict[str, Any]] = {}
    ids = set()
    for chunk in chunks:
        assert (chunk["object"], chunk["model"]) == (kind, lm.name)
        ids.add((chunk["id"], chunk["created"], chunk["system_fingerprint"]))
        for choice in chunk["choices"]:
            index = choice["index"]
            one = found.setdefault(index, {"content": "", "logprobs": [], "calls": {}, "finish_reason": None})
            assert one["finish_reason"] is None
            delta = choice.get("delta", {"content": choice.get("text", "")})
            assert ("role" in delta) == (one.get("role") is None and "delta" in choice)
            one["role"] = "assistant"
            one["content"] += delta.get("content", "")
            for call in delta.get("tool_calls", ()):
                function = one["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                for key in ("name", "arguments"):
                    function[key] += call["function"].get(key, "")
            if choice["logprobs"] is not None:
                one["logprobs"].append(choice["logprobs"])
            one["finish_reason"] = choice["finish_reason"]
    assert len(ids) == 1
    return [found[index] for index in sorted(found)]


def test_a_chat(lm: LanguageModel) -> None:
    fields: dict[str, Any] = {"messages": HI, "max_tokens": 9, "temperature": 0.7, "seed": 5}
    answer = lm.openai.chat(**fields, logprobs=True, top_logprobs=2, return_token_ids=True)
    expected = lm.chat("the cat", max_tokens=9, temperature=0.7, seed=5, logprobs=2)
    text = expected.read()
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["token_ids"] == expected.tokens
    prompt = len(expected.completion.prompt)
    assert answer["usage"]["prompt_tokens"] == prompt
    assert answer["usage"]["completion_tokens"] == 9
    assert answer["usage"]["total_tokens"] == prompt + 9
    assert answer["pyml"]["seeds"] == [5]
    entries = choice["logprobs"]["content"]
    assert [entry["logprob"] for entry in entries] == [logprob for logprob, _ in expected.completion.logprobs]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode("utf-8", "replace") == text
    for entry, (_, top) in zip(entries, expected.completion.logprobs, strict=True):
        assert [one["logprob"] for one in entry["top_logprobs"]] == [value for _, value in top]
    json.dumps(answer)


def test_a_streamed_chat(lm: LanguageModel) -> None:
    fields: dict[str, Any] = {"messages": HI, "max_tokens": 9, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 1}
    whole = lm.openai.chat(**fields)
    chunks = list(lm.openai.chat(**fields, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    streamed = choices(lm, iter(chunks), "chat.completion.chunk")
    for one, choice in zip(streamed, whole["choices"], strict=True):
        assert one["content"] == choice["message"]["content"]
        assert one["finish_reason"] == choice["finish_reason"]
        entries = list(itertools.chain.from_iterable(part["content"] for part in one["logprobs"]))
        assert entries == choice["logprobs"]["content"]


def test_ids_of_streamed_tokens(lm: LanguageModel) -> None:
    fields: dict[str, Any] = {"max_tokens": 9, "seed": 3, "return_token_ids": True}
    for call, given in ((lm.openai.chat, {"messages": HI}), (lm.openai.completions, {"prompt": "the"})):
        whole = call({**fields, **given})["choices"][0]["token_ids"]
        chunks = call({**fields, **given}, stream=True)
        assert [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", ())] == whole


def test_choices_differ_and_are_those_of_generate(lm: LanguageModel) -> None:
    answer = lm.openai.completions(prompt=["the cat", "the"], n=3, max_tokens=6, temperature=1.5, seed=8)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == [
        lm.generate_text(prompt, max_tokens=6, temperature=1.5, seed=8, sample_index=index)
        for prompt in ("the cat", "the")
        for index in range(3)
    ]
    assert len(set(texts)) > 3
    ids = [len(lm.ids(prompt)) for prompt in ("the cat", "the")]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (sum(ids), 36)


def test_an_echo_has_the_scores_of_the_prompt(lm: LanguageModel) -> None:
    """What evaluation programs send."""
    ids = lm.ids("the cat in the hat")
    answer = lm.openai.completions(prompt=[ids], max_tokens=1, logprobs=1, echo=True, temperature=0)
    found = answer["choices"][0]["logprobs"]
    scores = lm.score(ids, 1)
    assert found["token_logprobs"][: len(ids)] == [score.logprob for score in scores]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert [list(top.values()) for top in found["top_logprobs"][1 : len(ids)]] == [
        [score.top_logprobs[0][1]] for score in scores[1:]
    ]
    assert len(found["tokens"]) == len(ids) + 1
    text = answer["choices"][0]["text"]
    for token, place in zip(found["tokens"], found["text_offset"], strict=True):
        assert text.startswith(token, place) or token.startswith("bytes:")
    alone = lm.openai.completions(prompt=ids, max_tokens=0, echo=True)["choices"][0]
    assert alone["text"] == lm.tokenizer.decode(ids, skip_special=False)


def test_a_streamed_completion(lm: LanguageModel) -> None:
    fields: dict[str, Any] = {"prompt": "the cat", "max_tokens": 8, "temperature": 0, "logprobs": 2}
    whole = lm.openai.completions(fields)["choices"][0]
    (one,) = choices(lm, lm.openai.completions(fields, stream=True), "text_completion")
    assert (one["content"], one["finish_reason"]) == (whole["text"], whole["finish_reason"])
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert list(itertools.chain.from_iterable(part[key] for part in one["logprobs"])) == whole["logprobs"][key]


def test_stop_strings_and_their_log_probabilities(lm: LanguageModel) -> None:
    text = lm.generate_text("the cat", max_tokens=12, temperature=0)
    stop = text[4:6]
    choice = lm.openai.completions(prompt="the cat", max_tokens=12, temperature=0, stop=stop, logprobs=0)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")
    joined = "".join(choice["logprobs"]["tokens"])
    assert joined.startswith(choice["text"])
    assert len("".join(choice["logprobs"]["tokens"][:-1])) < len(choice["text"]) or not choice["text"]


def test_structure(lm: LanguageModel) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = lm.openai.chat(messages="the", response_format=form, max_tokens=40)
    assert json.loads(answer["choices"][0]["message"]["content"])["a"] in (1, 2)
    answer = lm.openai.completions(prompt="the", structured_outputs={"choice": ["a cat", "(hat)"]})
    assert answer["choices"][0]["text"] in ("a cat", "(hat)")


def test_calls_of_tools(lm: LanguageModel) -> None:
    pytest.importorskip("llguidance")
    fields: dict[str, Any] = {"messages": HI, "tools": [TOOL], "max_tokens": 150, "seed": 1}
    fields["structured_outputs"] = {"regex": f"Yes[.] {CALL}\\n{CALL}"}
    (choice,) = lm.openai.chat(**fields)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Yes. "
    calls = choice["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["add", "add"]
    assert all(json.loads(call["function"]["arguments"])["a"] in range(1, 10) for call in calls)
    assert len({call["id"] for call in calls}) == 2
    (one,) = choices(lm, lm.openai.chat(**fields, stream=True), "chat.completion.chunk")
    assert (one["content"], one["finish_reason"]) == ("Yes. ", "tool_calls")
    assert [one["calls"][index] for index in (0, 1)] == [call["function"] for call in calls]
    again = [*HI, choice["message"], {"role": "tool", "tool_call_id": calls[0]["id"], "content": "3"}]
    assert lm.openai.chat(messages=again, max_tokens=2)["usage"]["completion_tokens"] == 2
    fields["tools"] = [{"type": "function", "function": {"name": "other"}}]
    (choice,) = lm.openai.chat(**fields)["choices"]
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["content"].startswith("Yes. <tool_call>")


def test_errors_come_before_any_work(lm: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match=r"^max_token is not a field of this request"):
        lm.openai.chat(messages=HI, max_token=5, stream=True)
    with pytest.raises(ContextOverflowError):
        lm.openai.completions(prompt=["a", "the cat " * 500], stream=True)
    with pytest.raises(ArgumentError, match=r"^logit_bias must be token ids below "):
        lm.openai.chat(messages=HI, logit_bias={"99999": 1})
    with pytest.raises(ArgumentError, match=r"^request must be an object"):
        lm.openai.chat("Hi")  # type: ignore[call-overload]


def test_a_timeout(lm: LanguageModel) -> None:
    with pytest.raises(Cancelled, match=r"^the timeout "):
        lm.openai.chat(messages=HI, timeout=1e-6)


def test_a_stream_that_is_dropped(lm: LanguageModel) -> None:
    stream = lm.openai.chat(messages=HI, stream=True, n=2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert lm.openai.chat(messages=HI, max_tokens=1)["usage"]["completion_tokens"] == 1


def test_many_threads(lm: LanguageModel) -> None:
    fields: dict[str, Any] = {"messages": HI, "max_tokens": 8, "temperature": 1.2}
    expected = [lm.openai.chat(**fields, seed=seed)["choices"][0]["message"] for seed in range(6)]
    found: list[Any] = [None] * 6

    def ask(seed: int) -> None:
        found[seed] = lm.openai.chat(**fields, seed=seed)["choices"][0]["message"]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# ---- batches

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def line(name: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def test_a_batch_file(lm: LanguageModel, tmp_path: Path) -> None:
    bodies = [{"messages": HI, "max_tokens": 4, "seed": seed} for seed in range(20)]
    lines = [json.dumps(line(f"chat-{seed}", CHAT, body)) for seed, body in enumerate(bodies)]
    lines[3:3] = [
        json.dumps(line("text", COMPLETION, {"prompt": "the", "max_tokens": 2, "temperature": 0})),
        json.dumps(line("wrong", CHAT, {"messages": HI, "max_tokens": -1})),
        json.dumps(line("streamed", CHAT, {"messages": HI, "stream": True})),
        json.dumps({"custom_id": "elsewhere", "method": "POST", "url": "/v1/embeddings", "body": {}}),
        "no JSON",
    ]
    (tmp_path / "in.jsonl").write_text("\ufeff" + "\n\n".join(lines) + "\n")
    failed = lm.openai.batch_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    found = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert failed == 4
    names = ["chat-0", "chat-1", "chat-2", "text", "wrong", "streamed", "elsewhere", None]
    assert [one["custom_id"] for one in found] == [*names, *(f"chat-{seed}" for seed in range(3, 20))]
    assert [one["response"]["status_code"] for one in found[3:8]] == [200, 400, 400, 400, 400]
    assert found[4]["response"]["body"]["error"]["param"] == "max_tokens"
    assert found[6]["response"]["body"]["error"]["param"] == "url"
    assert all(one["error"] is None for one in found)
    for one in found:
        if (one["custom_id"] or "").startswith("chat-"):
            body = bodies[int(one["custom_id"].removeprefix("chat-"))]
            assert one["response"]["body"]["choices"] == lm.openai.chat(body)["choices"]


def test_a_batch_is_lazy_and_can_be_left(lm: LanguageModel) -> None:
    taken = 0

    def lines() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for taken in range(1, 1000):
            yield line(str(taken), COMPLETION, {"prompt": "the", "max_tokens": 1})

    results = lm.openai.batch(lines())
    assert next(results)["custom_id"] == "1"
    assert taken < 50
    results.close()  # type: ignore[attr-defined]


def test_files_that_cannot_be_used(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"none.jsonl: No such file or directory$"):
        lm.openai.batch_file(tmp_path / "none.jsonl", tmp_path / "out")
    (tmp_path / "in").write_text("")
    with pytest.raises(PymlError, match="No such file or directory"):
        lm.openai.batch_file(tmp_path / "in", tmp_path / "no" / "out")
    with pytest.raises(ArgumentError, match="must be paths"):
        lm.openai.batch_file(5, tmp_path)  # type: ignore[arg-type]
