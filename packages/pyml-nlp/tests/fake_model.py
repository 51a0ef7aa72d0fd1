"""A scripted model and a tokenizer of bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from pyml_core import cancel
from pyml_core.errors import Cancelled
from pyml_core.kv_layout import KVLayout
from pyml_core.want import ALL_LOGITS, Greedy, GreedyToken, Want
from pyml_nlp.generation.request import Request
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions
from pyml_nn import KVCache
from pyml_nn.cache import Origin

VOCAB = 300
EOS = 299
GREEDY = SamplingOptions(temperature=0.0)


class FakeTokenizer:
    """Bytes as tokens; ids from 256 on have no text."""

    eos_ids = (EOS,)
    kind = "bytes"
    vocab_size = VOCAB
    bos_id: int | None = None

    def encode_prompt(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def stream_decoder(self) -> Any:
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return SimpleNamespace(
            push=lambda token: decoder.decode(bytes([token]) if token < 256 else b""),
            flush=lambda: decoder.decode(b"", final=True),
        )


class FakeModel:
    """Makes the token that a function of all ids so far returns the most probable, above noise that depends on the ids.

    Attributes:
        calls: (ids, positions) of each slice of each forward.
    """

    kv_layout = KVLayout(1, 1, 8)
    cache_origin = Origin("fake", "fake", kv_layout)
    vocab_size = VOCAB
    n_params = 0
    screened = False

    def __init__(self, following: Callable[[list[int]], int], context_length: int = 64) -> None:
        self.following = following
        self.context_length = context_length
        self.calls: list[list[tuple[list[int], Any]]] = []
        self.before: Callable[[], None] = lambda: None
        self.cancelled = threading.Event()

    def new_cache(self, max_length: int) -> KVCache:
        return KVCache(self.kv_layout, max_length, self.cache_origin.model, self.cache_origin.cpu_level)

    def forward(self, batch: Sequence[tuple[KVCache, Sequence[int], Any]], want: Want = ALL_LOGITS) -> list[Any]:
        if isinstance(want, Greedy):
            ((cache, (token,), _),) = batch
            return [self._greedy(cache, token, want)]
        self.before()
        cancel.check()
        if self.cancelled.is_set():
            self.cancelled.clear()
            raise Cancelled("cancelled")
        self.calls.append([(list(ids), positions) for _, ids, positions in batch])
        results = []
        for cache, ids, positions in batch:
            cache.reserve(len(ids))
            cache.append(list(ids))
            wanted = [len(ids) - 1] if positions is None else positions
            held = cache.ids[: -len(ids)] if len(ids) else cache.ids
            results.append(np.array([self._logits(held + list(ids[: i + 1])) for i in wanted], np.float32))
        return results

    def _greedy(self, cache: KVCache, token: int, want: Greedy) -> list[GreedyToken]:
        found: list[GreedyToken] = []
        whole, repeat = [*want.history], want.repeat
        while len(found) < want.count and token not in (want.ends if found else ()):
            whole += [one.token for one in found[-1:]]
            if found and whole[-repeat:] in [whole[i : i + repeat] for i in range(len(whole) - repeat)]:
                break
            start = time.perf_counter()
            (row,) = self.forward([(cache, [token], None)])[0]
            ms = (time.perf_counter() - start) * 1e3
            token = int(row.argmax())
            found.append(GreedyToken(token, float(row[token]), ms))
        return found

    def _logits(self, ids: list[int]) -> np.ndarray:
        logits = np.random.RandomState(sum(ids) % 1000).standard_normal(VOCAB)
        logits[self.following(ids)] += 8.0
        return logits

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        pass


def cycle(ids: list[int]) -> int:
    """The next letter of the alphabet."""
    return 97 + (ids[-1] - 96) % 26 if ids[-1] >= 97 else 97


def script(text: bytes, prompt_length: int) -> Callable[[list[int]], int]:
    """These bytes, then end of sequence."""
    return lambda ids: text[len(ids) - prompt_length] if len(ids) - prompt_length < len(text) else EOS


def make(following: Callable[[list[int]], int] = cycle, **options: Any) -> LanguageModel:
    """A language model whose default is greedy."""
    context = options.pop("context", 64)
    model: Any = FakeModel(following, context)
    tokenizer: Any = FakeTokenizer()
    options.setdefault("generation_options", GenerationOptions(max_tokens=64, sampling=GREEDY))
    return LanguageModel(model, tokenizer, options.pop("eos", (EOS,)), **options)


def request(prompt: Sequence[int], max_tokens: int, sampling: SamplingOptions = GREEDY) -> Request:
    return Request(prompt, GenerationOptions(max_tokens, sampling))


def calls(lm: LanguageModel) -> list[list[tuple[list[int], Any]]]:
    return lm.model.calls  # type: ignore[attr-defined,no-any-return]
