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
from pyml_core.want import ALL_LOGITS, Choice, Sample, SampledToken, Want
from pyml_nlp.generation.request import Request
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions
from pyml_nn import KVCache
from pyml_nn.cache import Origin, Origins

VOCAB = 300
EOS = 299
GREEDY = SamplingOptions(temperature=0.0)


class FakeTokenizer:
    """Bytes as tokens; ids from 256 on have no text."""

    eos_ids = (EOS,)
    kind = "bytes"
    vocab_size = VOCAB
    bos_id: int | None = None
    special_ids: frozenset[int] = frozenset((EOS,))

    def encode_prompt(self, text: str) -> list[int]:
        return list(text.encode())

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
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
    origins = Origins([cache_origin])
    adapters = ()
    vocab_size = VOCAB
    n_params = 0
    screened = False

    def __init__(self, following: Callable[[list[int]], int], context_length: int = 64) -> None:
        self.following = following
        self.context_length = context_length
        self.calls: list[list[tuple[list[int], Any]]] = []
        self.before: Callable[[], None] = lambda: None
        self.cancelled = threading.Event()

    def new_cache(self, max_length: int, adapter: str | None = None) -> KVCache:
        return KVCache(self.kv_layout, max_length, self.cache_origin.model, self.cache_origin.cpu_level)

    def forward(self, batch: Sequence[tuple[KVCache, Sequence[int], Any]], want: Want = ALL_LOGITS) -> list[Any]:
        lengths = [cache.length for cache, _, _ in batch]
        try:
            return self._sample(batch, want) if isinstance(want, Sample) else self._rows(batch)
        except BaseException:  # after an error, caches are unchanged
            for (cache, _, _), length in zip(batch, lengths, strict=True):
                cache.trim(length)
            raise

    def _rows(self, batch: Sequence[tuple[KVCache, Sequence[int], Any]]) -> list[np.ndarray]:
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

    def _sample(self, batch: Sequence[tuple[KVCache, Sequence[int], Any]], want: Sample) -> list[list[SampledToken]]:
        """One call of :meth:`_rows` for each run."""
        choices = iter(want.choices)
        chosen = [next(choices) if positions is None or positions else None for _, _, positions in batch]
        found: list[list[SampledToken]] = [[] for _ in batch]
        texts = [list(choice.history) if choice else [] for choice in chosen]
        for cache, ids, _ in batch:
            cache.reserve(len(ids) + want.count - 1)
        more, run = True, 0
        while more and run < want.count:
            start = time.perf_counter()
            inputs = (
                batch
                if not run
                else [(cache, [own[-1].token], None) for (cache, _, _), own in zip(batch, found, strict=True)]
            )
            rows = self._rows(inputs)
            ms = (time.perf_counter() - start) * 1e3
            more, run = not (want.pause is not None and want.pause.cancelled), run + 1
            for (cache, ids, positions), choice, own, text, logits in zip(
                inputs, chosen, found, texts, rows, strict=True
            ):
                if choice is None:
                    continue
                first = (len(ids) - 1) if positions is None else positions[0]
                before = len(own)
                for i, row in enumerate(logits):
                    one = self._choose(choice, choice.position + len(own), row, 0.0 if i else ms)
                    own.append(one)
                    text.append(one.token)
                    more = more and self._goes_on(choice, one, want) and not _repeats(text, choice.repeat)
                    if one.error or (i + 1 < len(logits) and ids[first + i + 1] != one.token):
                        break
                cache.rewind(cache.length - (len(ids) - first - (len(own) - before)))
        return found

    def _choose(self, choice: Choice, position: int, row: np.ndarray, ms: float) -> SampledToken:
        try:
            found = choice.sampler.choose(row, position)
        except Exception as error:  # as a program reports them
            return SampledToken(-1, float("nan"), ms, error=error)
        choice.sampler.add(found.token)
        return found._replace(ms=ms)

    @staticmethod
    def _goes_on(choice: Choice, one: SampledToken, want: Sample) -> bool:
        if one.error is not None or (choice.follow is not None and not choice.follow(one.token)):
            return False
        stops = choice.stops
        stopped = stops is not None and stops[one.token // 32] >> one.token % 32 & 1
        return not stopped and one.token not in want.ends

    def _logits(self, ids: list[int]) -> np.ndarray:
        logits = np.random.RandomState(sum(ids) % 1000).standard_normal(VOCAB)
        logits[self.following(ids)] += 8.0
        return logits

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        pass


def _repeats(text: list[int], repeat: int) -> bool:
    return repeat > 0 and text[-repeat:] in [text[i : i + repeat] for i in range(len(text) - repeat)]


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
