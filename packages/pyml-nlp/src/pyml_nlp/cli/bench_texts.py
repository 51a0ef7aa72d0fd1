"""The tg tests of ``pyml-bench`` with rules of sampling: texts that the generator writes, each token fed back."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from pyml_core.errors import PymlError

from .bench_rows import Test, TextSample
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..generation.request import Request
    from ..language_model import LanguageModel
    from ..options import GenerationKeywords, GenerationOptions

SEED = 42
"""Of the sampling, unless one is given: the texts are the same in every run."""

PROMPT_TOKENS = 64
"""Length of a prompt without ``-d``."""

PROMPT = (
    "Ships have carried goods between the harbours of this coast for two thousand years. In the old town every street "
    "leads down to the quay, where the market opens at dawn. This is the story of a family that built boats there, "
    "and of the winter in which the sea froze. "
)
"""The prompt without ``--text``, repeated as often as its length requires."""


def options_of_texts(lm: LanguageModel, changes: GenerationKeywords) -> GenerationOptions:
    """The options of the texts: the model's defaults with changes, as in ``pyml-infer``, and a seed."""
    options = lm.generation_options.replace(**changes)
    return options if options.sampling.greedy or options.sampling.seed is not None else options.replace(seed=SEED)


def rules(options: GenerationOptions) -> str:
    """The rules in effect, such as ``temperature=0.8 top_p=0.95 seed=42``."""
    shown = [str(options.sampling)]
    if options.grammar is not None:
        shown.append(f"grammar={options.grammar.kind}")
    if options.logprobs is not None:
        shown.append(f"logprobs={options.logprobs}")
    return " ".join(shown)


def prompts(lm: LanguageModel, count: int, length: int, text_ids: npt.NDArray[np.int64] | None) -> list[list[int]]:
    """Prompts of ``length`` tokens: parts of the text that start evenly spread over it, or ``PROMPT``.

    Raises:
        PymlError: the text is too short.
    """
    import numpy as np

    if text_ids is None:
        ids = itertools.cycle(lm.tokenizer.encode(PROMPT, add_special=False))
        prompt = list(itertools.islice(itertools.chain(lm.tokenizer.metadata.prefix, ids), length))
        return [prompt] * count
    if len(text_ids) < length:
        raise PymlError(f"prompt: needs a text of {length} tokens, --text has {len(text_ids)}")
    starts = np.linspace(0, len(text_ids) - length, count).astype(int)
    return [text_ids[start : start + length].tolist() for start in starts]


def measure_texts(
    lm: LanguageModel,
    test: Test,
    options: GenerationOptions,
    repetitions: int,
    text_ids: npt.NDArray[np.int64] | None = None,
) -> list[TextSample]:
    """Generate the texts of a test of decoding, after prompts of its depth (0: ``PROMPT_TOKENS``); nothing is drafted.

    End-of-sequence tokens end only a text of a grammar. One text is timed after its first token, until the test's
    tokens have been counted; a batch from its beginning, its prompts having been computed before.

    Raises:
        PymlError: the texts do not fit the context, or end with their first token.
    """
    from ..generation.request import Request
    from ..language_model import LanguageModel

    length = test.depth or PROMPT_TOKENS
    need = length + test.steps + 1
    if need > lm.context_length:
        raise PymlError(f"{test.name}: needs {need} positions, the context holds {lm.context_length}")
    wanted = prompts(lm, test.batch, length, text_ids)
    if options.grammar is None:
        lm = LanguageModel(lm.model, lm.tokenizer, (), lm.context_length, lm.prefill_chunk, lm.name)
    options = options.replace(max_tokens=test.steps + (test.batch == 1))
    requests = [Request(prompt, options.replace(sample_index=index)) for index, prompt in enumerate(wanted)]
    samples = []
    for _ in range(repetitions + 1):
        samples.append(_one(lm, requests[0], test.steps) if test.batch == 1 else _batch(lm, requests))
    return samples[1:]  # the first one warms up


def _one(lm: LanguageModel, request: Request, steps: int) -> TextSample:
    count, seconds, inside = 0, 0.0, 0.0
    with Stopwatch(lm) as watch:
        while count < steps:
            before = count
            generation = lm.generate(request.prompt, request.options, speculate=False)
            next(generation)
            prefill = watch.seconds
            start = time.perf_counter()
            for _ in generation:
                count += 1
            seconds += time.perf_counter() - start
            inside += watch.seconds - prefill
            if count == before:
                raise PymlError("the texts of the grammar end with their first token: nothing to measure")
    return TextSample(count, seconds, inside)


def _batch(lm: LanguageModel, requests: list[Request]) -> TextSample:
    lm.prefix_cache.clear()
    for request in requests:
        lm.prefill(request.prompt)
    with Stopwatch(lm) as watch:
        start = time.perf_counter()
        texts = lm.generate_batch(requests, max_batch_size=len(requests), speculate=False)
        count = sum(len(completion.tokens) for completion in texts)
        seconds = time.perf_counter() - start
    return TextSample(count, seconds, watch.seconds)
