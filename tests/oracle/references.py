"""Shared by the live comparisons: transformers in f32, engines to compare with it, and texts that every machine has.

They run in an environment of their own, with pyml's three packages, torch and transformers (``README.md`` beside this
file)."""

from __future__ import annotations

import importlib
import json
import pydoc_data.topics
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import pyml_nlp
from pyml_core.dtypes import quantize
from pyml_nlp.formats.safetensors import SafetensorsFolder
from tests.helpers.hf_files import Entry, write_shards

F32Array = npt.NDArray[np.float32]
Engine = Callable[[list[int]], F32Array]
"""Token ids of one sequence to logits (T, V) at every position."""


def prose() -> str:
    """Python's own reference manual, as the interpreter ships it."""
    return "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


def code() -> str:
    """Python's standard library."""
    return "\n\n".join(Path(str(importlib.import_module(name).__file__)).read_text() for name in ("heapq", "argparse"))


class Transformers:
    """A model in f32 with eager attention, from a GGUF file or a Hugging Face folder."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch = torch
        where = {"gguf_file": path.name} if path.is_file() else {}
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent if path.is_file() else path, dtype=torch.float32, attn_implementation="eager", **where
        ).eval()

    def logits(self, ids: list[int]) -> F32Array:
        """Logits at every position."""
        with self.torch.no_grad():
            found: F32Array = self.model(self.torch.tensor([ids])).logits[0].numpy()
        return found

    def greedy(self, ids: list[int], count: int) -> tuple[list[int], list[float]]:
        """``count`` greedy tokens after ``ids`` and the gap of each to the second best."""
        tokens: list[int] = []
        gaps, past, feed = [], None, ids
        for _ in range(count):
            with self.torch.no_grad():
                out = self.model(self.torch.tensor([feed]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            best = out.logits[0, -1].topk(2)
            gaps.append(float(best.values[0] - best.values[1]))
            feed = [int(best.indices[0])]
            tokens += feed
        return tokens, gaps


def engine(name: str, path: Path, threads: int, window: int) -> Engine:
    """Of a name: ``transformers``, ``llama-cpp`` (sequences of at most ``window``), ``pyml:DTYPE[:KV_DTYPE]``."""
    if name == "transformers":
        return Transformers(path, threads).logits
    if name == "llama-cpp":
        return llama_cpp_engine(path, threads, window)
    return pyml_engine(path, name.removeprefix("pyml:"), threads)


def bf16_copy(folder: Path, copy: Path) -> None:
    """Copy a Hugging Face folder, all of its weights rounded to bf16."""
    with SafetensorsFolder(folder) as source:

        def entry(name: str) -> Entry:
            return Entry(name, "BF16", source.shape(name), lambda: quantize(source.read(name).to_f32(), "bf16"))

        write_shards(copy, map(entry, source.names()))
    for file in folder.iterdir():
        if not file.name.startswith("model"):  # the weights and their index
            shutil.copyfile(file, copy / file.name)


def pyml_engine(path: Path, dtypes: str, threads: int) -> Engine:
    """pyml at a dtype, or at one of weights and one of keys and values: ``auto:f16``."""
    dtype, _, kv_dtype = dtypes.partition(":")
    lm = pyml_nlp.load(path, dtype=dtype, kv_dtype=kv_dtype or "auto", threads=threads)
    return lambda ids: lm.logits(ids)


def llama_cpp_engine(path: Path, threads: int, window: int) -> Engine:
    """llama-cpp-python on this GGUF file."""
    import llama_cpp

    sizes = {"n_ctx": window, "n_batch": window, "n_threads": threads, "n_threads_batch": threads}
    llama = llama_cpp.Llama(str(path), logits_all=True, verbose=False, **sizes)

    def logits(ids: list[int]) -> F32Array:
        llama.reset()
        llama.eval(ids)
        return np.array(llama.scores[: len(ids)], np.float32)

    return logits


def prompts(count: int) -> Iterator[str]:
    """Beginnings of paragraphs of the manual and of functions of the library, after those of goldens/prompts.json."""
    yield from json.loads((Path(__file__).parents[1] / "goldens" / "prompts.json").read_text())[:count]
    paragraphs = [part.strip()[:60] for part in prose().split("\n\n") if len(part.strip()) > 300]
    functions = [part[:80] for part in code().split("\ndef ") if len(part) > 300]
    others = count - 8
    for number in range(others):
        source = functions if number % 4 == 3 else paragraphs
        start = "def " if number % 4 == 3 else ""
        yield start + source[number * len(source) // max(1, others)]
