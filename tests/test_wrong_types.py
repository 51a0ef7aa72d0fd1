"""Every argument of every public function and method, with values of wrong types: an error of pyml's own that names it.

A value is accepted as a whole, or refused in words; no error of Python comes from inside. The table of calls is
compared with the names that the package exports, so that a new method or parameter is tested or is an error here.
"""

from __future__ import annotations

import array
import inspect
import re
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_core.want import ALL_LOGITS
from pyml_nlp import (
    ChatOptions,
    Conversation,
    GenerationOptions,
    Grammar,
    LanguageModel,
    LoadOptions,
    Request,
    SamplingOptions,
)
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.options import keywords
from tests.helpers.embedding_folder import write_folder

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}{{ tools }}{{ documents }}"


class Strange:
    """An object whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


ANYTHING = object()
VALUES: dict[str, Any] = {
    "object": ANYTHING,
    "strange": Strange(),
    "None": None,
    "True": True,
    "np.bool": np.True_,
    "1.5": 1.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "-1": -1,
    "large": 2**70,
    "huge": 10**5000,
    "np.float32": np.float32(1.5),
    "np.int8": np.int8(-1),
    "np.uint64": np.uint64(2**63),
    "complex": 1j,
    "Decimal": Decimal("1.5"),
    "Fraction": Fraction(1, 2),
    "text": "x\n\x1b[31m",
    "surrogate": "a\ud800",
    "zero": "\0",
    "empty text": "",
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "list": [],
    "list of None": [None],
    "list of lists": [[1], [2]],
    "list of texts": ["a", "\ud800"],
    "list of numbers": [1.5, -1],
    "list of large": [2**70],
    "tuple": (1, "a"),
    "dict": {},
    "dict of objects": {ANYTHING: ANYTHING},
    "dict of texts": {"a": ANYTHING},
    "dict of numbers": {1: float("nan")},
    "set": {1},
    "array 0": np.array(5),
    "array 1": np.array([0.5]),
    "array 2": np.zeros((2, 2), np.int64),
    "array of objects": np.array([ANYTHING]),
    "array of nothing": np.array([]),
    "array.array": array.array("f", [1.5]),
    "type": int,
    "function": print,
    "path": Path("nosuch"),
    "module": pyml_nlp,
    "exception": ValueError("x"),
    "error": Ellipsis,
}

Calls = dict[str, tuple[Callable[..., Any], dict[str, Any]]]

GENERATE = {"max_tokens": 2, "temperature": 0.0}

OTHER_NAMES = {
    "ids": "token id",
    "path": "cannot load|expected a trace file",
    "prompts": r"^prompt \d: ",
    "chat_options": "ChatOptions",
    "context_length": "context length",
    "message": "messages",
    "model": "there is no such file",
    "name": "expected (one|a tensor) of",
    "names": "operation of this model",
    "options": "max_tokens is given twice",
    "prompt": "text: ",
    "source": "regex: ",
    "tensors": "tensor of this model",
    "token_id": "token id",
}
"""What messages call an argument, where that is not its name."""

NOT_TESTED = {
    "LanguageModel": "load makes it", "Embedder": "load_embedder makes it",
    "KVCache": "lm.new_cache makes it", "KVCache.load": "lm.load_cache calls it",
    **dict.fromkeys(
        ("KVCache.append", "KVCache.check_room", "KVCache.replace", "KVCache.reserve", "KVCache.rewind"),
        "a model calls it",
    ),
    "KVCache.of_pages": "a prefix cache calls it", "KVCache.share": "a prefix cache calls it",
    "Trace": "lm.trace makes it", "Trace.check_room": "a model calls it", "Trace.record": "a model calls it",
    **dict.fromkeys(("Batch", "Generation", "Step", "TextStream", "TokenScore", "ModelInfo"), "a result"),
    **dict.fromkeys(("Completion", *(f"Completion.{name}" for name in (
        "abandon", "follow", "set_chosen", "rewind_choices", "end", "fail", "take"))), "a result of a generator"),
    "TokenScore.count": "of tuples", "TokenScore.index": "of tuples",
    "Server": "lm.server makes it", "Server.retire": "its thread calls it",
    "PrefixCache.bind": "an engine calls it",
    "ChatTemplate": "lm.chat_template makes it", "ChatTemplate.prompt": "ids and render call it",
    "ChatTemplate.reads": "lm.openai calls it",
    "Tokenizer": "load_tokenizer makes it", "Tokenizer.set_origin": "load_tokenizer calls it",
    "Conversation.lm": "an attribute",
}  # fmt: skip
"""Public callables with arguments that no program passes, and why."""


def calls(lm: LanguageModel, root: Path) -> Calls:
    """Every public callable that takes arguments, with valid ones."""
    stream = lm.submit("a", max_tokens=1)
    stream.result(10)
    with lm.trace(tensors="layers.0") as trace:
        lm.logits("ab")
    saved = root / "cache"
    lm.prefill("ab").save(saved)
    path = folder_of(lm)
    embedder = pyml_nlp.load_embedder(write_folder(root / "bert"), threads=1)
    sampling, generation = SamplingOptions(), GenerationOptions()
    messages = [{"role": "user", "content": "a"}]
    continued = {"cache": None, "timeout": 9.0, "speculate": True, "draft_model": None, "options": None, **GENERATE}
    several = {**{name: value for name, value in continued.items() if name != "cache"}}
    chatted = {"messages": messages, "chat_options": None, "tools": [{"type": "function"}], **continued}
    prompted = {"messages": messages, "options": None, "documents": [{"title": "a", "text": "b"}]}
    return {
        "load": (_closed(pyml_nlp.load), {"model": path, "threads": 1}),
        "model_info": (pyml_nlp.model_info, {"model": path}),
        "pack": (pyml_nlp.pack, {"model": path, "path": root / "packed.pyml", "threads": 1, "progress": None}),
        "load_embedder": (_closed(pyml_nlp.load_embedder), {"model": root / "bert", "threads": 1, "progress": None}),
        "Embedder.embed": (embedder.embed, {"texts": ["a"], "prompt": None, "prompt_name": None}),
        "Embedder.token_ids": (
            embedder.token_ids,
            {"texts": ["a"], "prompt": None, "prompt_name": None, "truncate": True},
        ),
        "Embedder.embed_ids": (embedder.embed_ids, {"ids": [[1, 2]]}),
        "Conversation": (Conversation, {"lm": lm}),
        "ChatOptions": (ChatOptions, {}),
        "ChatOptions.replace": (ChatOptions().replace, {}),
        "GenerationOptions": (GenerationOptions, {}),
        "GenerationOptions.replace": (generation.replace, {}),
        "Grammar": (Grammar, {"kind": "regex", "source": "a"}),
        "LoadOptions": (LoadOptions, {}),
        "LoadOptions.replace": (LoadOptions().replace, {}),
        "Request": (Request, {"prompt": [1], "options": generation}),
        "SamplingOptions": (SamplingOptions, {}),
        "SamplingOptions.replace": (sampling.replace, {}),
        "Conversation.reset": (lm.conversation().reset, {"system": "a"}),
        "Conversation.restore": (lm.conversation().restore, {"messages": messages}),
        "Conversation.send": (_read(lambda **given: lm.conversation().send(**given)), {"message": "a", **several}),
        "Conversation.system": (_setter(lm.conversation(), "system"), {"system": "a"}),
        "LanguageModel.agenerate": (_read(lm.agenerate), {"prompt": "ab", **continued}),
        "LanguageModel.submit": (_read(lm.submit), {"prompt": "ab", **continued}),
        "LanguageModel.generate": (_read(lm.generate), {"prompt": "ab", **continued}),
        "LanguageModel.generate_text": (lm.generate_text, {"prompt": "ab", **continued}),
        "LanguageModel.generate_batch": (
            lambda **given: list(lm.generate_batch(**given)),
            {"prompts": ["ab"], "max_batch_size": 2, "ordered": True, **several},
        ),
        "LanguageModel.generate_samples": (
            lm.generate_samples,
            {"prompt": "ab", "n": 1, "best_of": None, "max_batch_size": 2, **several},
        ),
        "LanguageModel.chat": (_read(lm.chat), chatted),
        "LanguageModel.chat_text": (lm.chat_text, chatted),
        "LanguageModel.chat_ids": (lm.chat_ids, prompted),
        "LanguageModel.set_chat_template": (lm.set_chat_template, {"source": TEMPLATE}),
        "LanguageModel.apply_chat_template": (lm.apply_chat_template, prompted),
        "LanguageModel.conversation": (lm.conversation, {"system": "a", "options": None}),
        "LanguageModel.forward": (
            lambda **given: lm.forward(given.pop("batch", [(lm.new_cache(), [1], None)]), **given),
            {"want": ALL_LOGITS},
        ),
        "LanguageModel.head": (lm.head, {"hidden": np.zeros((1, lm.config.hidden_size))}),
        "LanguageModel.hidden_states": (lm.hidden_states, {"text": "ab", "layers": None}),
        "LanguageModel.ids": (lm.ids, {"text": "ab"}),
        "LanguageModel.load_cache": (lm.load_cache, {"path": saved, "max_length": None, "adapter": None}),
        "LanguageModel.logits": (lm.logits, {"text": "ab", "positions": [0], "adapter": None}),
        "LanguageModel.name": (_setter(lm, "name"), {"name": "a"}),
        "LanguageModel.new_cache": (lm.new_cache, {"max_length": 3, "adapter": None}),
        "LanguageModel.prefill": (lm.prefill, {"prompt": "ab", "adapter": None}),
        "LanguageModel.prefix_cache": (_setter(lm, "prefix_cache"), {"prefix_cache": PrefixCache()}),
        "LanguageModel.score": (lm.score, {"text": "ab", "top": 1}),
        "LanguageModel.trace": (
            lambda names="**", **given: lm.trace(names, **given),
            {"tensors": (), "max_bytes": None},
        ),
        "KVCache.fork": (lm.prefill("ab").fork, {"length": 1}),
        "KVCache.trim": (lm.prefill("ab").trim, {"length": 1}),
        "KVCache.save": (lm.prefill("ab").save, {"path": root / "other"}),
        "TextStream.result": (stream.result, {"timeout": 9.0}),
        "Trace.save": (trace.save, {"path": root / "trace.csv"}),
        "Trace.summary": (trace.summary, {"top": 3}),
        "Trace.tensor": (trace.tensor, {"name": "layers.0", "step": None, "sequence": 0}),
        "Tokenizer.encode": (
            lm.tokenizer.encode,
            {"text": "a", "add_special": True, "parse_special": True, "boundaries": ()},
        ),
        "Tokenizer.encode_prompt": (lm.tokenizer.encode_prompt, {"text": "a"}),
        "Tokenizer.decode": (lm.tokenizer.decode, {"ids": [1], "skip_special": True}),
        "Tokenizer.stream_decoder": (lm.tokenizer.stream_decoder, {"skip_special": True}),
        "Tokenizer.token_bytes": (lm.tokenizer.token_bytes, {"token_id": 1}),
        "PrefixCache": (PrefixCache, {"max_bytes": 5}),
        "PrefixCache.add": (lm.prefix_cache.add, {"cache": lm.prefill("ab")}),
        "PrefixCache.shrink": (lm.prefix_cache.shrink, {"max_bytes": 1000}),
        "PrefixCache.fork": (lm.prefix_cache.fork, {"ids": [1, 2], "origin": None}),
        "Server.submit": (_read(lm.server.submit), {"request": Request([1], GenerationOptions(2)), "timeout": 9.0}),
        "Server.max_batch_size": (_setter(lm.server, "max_batch_size"), {"max_batch_size": 3}),
        "Server.kv_bytes": (_limit(lm.server, "kv_bytes"), {"kv_bytes": 1 << 30}),
        "Server.max_queue": (_limit(lm.server, "max_queue"), {"max_queue": 3}),
        "Server.max_queue_tokens": (_limit(lm.server, "max_queue_tokens"), {"max_queue_tokens": 4000}),
        "Server.max_gap": (_setter(lm.server, "max_gap"), {"max_gap": 0.1}),
        "ChatTemplate.render": (lm.chat_template.render, prompted),
        "ChatTemplate.ids": (lm.chat_template.ids, prompted),
        "ChatTemplate.source": (lm.chat_template.source, {"name": None, "tools": None}),
    }


def folder_of(lm: LanguageModel) -> Path:
    assert lm.origin is not None
    return lm.origin.path


def _read(start: Callable[..., Any]) -> Callable[..., Any]:
    """A call whose result is read: no error waits in it."""
    return lambda **given: [step.text for step in start(**given)]


def _closed(load: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **given: load(**given).close()


def _setter(thing: object, name: str) -> Callable[..., Any]:
    return lambda **given: setattr(thing, name, given[name])


def _limit(thing: object, name: str) -> Callable[..., Any]:
    """Set a limit, and take it back, so that it refuses nothing of the other calls."""

    def call(**given: Any) -> None:
        setattr(thing, name, given[name])
        setattr(thing, name, None)

    return call


@pytest.fixture(scope="module")
def lm(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    folder = tmp_path_factory.mktemp("types") / "model"
    shutil.copytree(tiny_dirs["llama"], folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def table(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Calls:
    return calls(lm, tmp_path_factory.mktemp("files"))


def owners() -> dict[str, Any]:
    """The public classes and functions, and the classes of a model's public attributes."""
    from pyml_nlp.chat import ChatTemplate
    from pyml_nlp.generation.server import Server
    from pyml_nlp.tokenizer import Tokenizer

    exported = {name: getattr(pyml_nlp, name) for name in pyml_nlp.__all__}
    found = {name: thing for name, thing in exported.items() if not _is_error(thing)}
    return found | {"PrefixCache": PrefixCache, "Server": Server, "Tokenizer": Tokenizer, "ChatTemplate": ChatTemplate}


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def callables() -> dict[str, list[str]]:
    """Names of all public callables -> names of their parameters; keywords of options one by one."""
    found = {}
    for name, owner in owners().items():
        if not inspect.isclass(owner):
            found[name] = parameters(owner)
            continue
        found[name] = parameters(owner)
        for attribute, member in inspect.getmembers(owner):
            if attribute.startswith("_"):
                continue
            if isinstance(member, property) and member.fset is not None:
                found[f"{name}.{attribute}"] = [attribute]
            elif callable(member):
                found[f"{name}.{attribute}"] = parameters(member)
    return {name: names for name, names in found.items() if names}


def parameters(function: Callable[..., Any]) -> list[str]:
    found: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation).strip("'"))
        if kind is not None:
            found += getattr(keywords, kind[1]).__annotations__
        elif parameter.name not in ("self", "args", "kwargs"):
            found.append(parameter.name)
    return found


CALLABLES = {name: names for name, names in callables().items() if name not in NOT_TESTED}


def test_every_public_callable_is_in_the_table(table: Calls) -> None:
    assert set(table) == set(CALLABLES)
    assert set(NOT_TESTED) <= {*callables(), *owners(), "Conversation.lm"}


@pytest.mark.parametrize("name", CALLABLES)
def test_wrong_values(
    name: str, table: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    call, valid = table[name]
    call(**valid)
    for parameter in CALLABLES[name]:
        for kind, value in VALUES.items():
            where = f"{name}({parameter}={kind})"
            if parameter in ("progress", "logits_processor") and callable(value):
                continue  # its own errors are the caller's
            try:
                call(**{**valid, parameter: value})
            except PymlError as error:
                said = str(error)
                assert re.search(f"{parameter}|{OTHER_NAMES.get(parameter, parameter)}", said), f"{where}: {said}"
                assert said.isprintable(), f"{where}: {said!r}"
                assert len(said) < 1000, f"{where}: {said}"
            except Exception as error:
                raise AssertionError(f"{where}: {error!r}") from error
            else:
                assert value is not ANYTHING, where
    assert [str(warning.message) for warning in recwarn if warning.category is not DeprecationWarning] == []


def test_parts_of_a_batch(lm: LanguageModel) -> None:
    def refused(batch: Any) -> None:
        with pytest.raises(PymlError) as caught:
            lm.forward(batch)
        assert str(caught.value).isprintable()

    for kind, value in VALUES.items():
        refused([value])
        refused([(value, [1], None)])
        refused([(lm.new_cache(), value, None)])
        if kind not in ("None", "list", "array of nothing"):  # of these all are no positions
            refused([(lm.new_cache(), [1], value)])
