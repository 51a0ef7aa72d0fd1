"""The gain from texts in one batch: tokens/s by the size of the batch, and the time that a cached prompt saves.

"async" is these texts with a coroutine for each, which reads every step; eight run together.

    .venv/bin/python benchmarks/batches.py [MODEL ...] [--prompts 24] [--tokens 48] [--rounds 3]

Prompts share an instruction of about 100 tokens and have different lengths, as have the texts (a third to all of
`--tokens`). There is no speculation. Figures are medians; every batch must give the tokens of one text after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from functools import partial

import pyml_nlp
from pyml_nlp.generation.request import Request
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions

INSTRUCTION = "Write one more sentence of this list about ships, harbours and the people who work there. " * 6
SUBJECTS = ("boat", "ferry that was late", "pilot", "old lighthouse on the northern rock", "crane", "harbour master")


def requests(lm: LanguageModel, count: int, tokens: int) -> list[Request]:
    """Prompts with a common beginning."""
    prompts = [f"{INSTRUCTION}\n{number}. The {SUBJECTS[number % len(SUBJECTS)]}" for number in range(count)]
    options = [GenerationOptions(tokens * (1 + number % 3) // 3, GREEDY) for number in range(len(prompts))]
    return [Request(lm.ids(prompt), chosen) for prompt, chosen in zip(prompts, options, strict=True)]


GREEDY = SamplingOptions(temperature=0.0)


def batch(lm: LanguageModel, wanted: list[Request], together: int) -> tuple[list[list[int]], float]:
    """Return the tokens of every text, and tokens/s of all."""
    lm.prefix_cache.clear()
    start = time.perf_counter()
    found = [completion.tokens for completion in lm.generate_batch(wanted, max_batch_size=together, speculate=False)]
    return found, sum(map(len, found)) / (time.perf_counter() - start)


def coroutines(lm: LanguageModel, wanted: list[Request], together: int) -> tuple[list[list[int]], float]:
    """:func:`batch` with a coroutine for each text."""

    async def read(request: Request) -> list[int]:
        return [step.token async for step in lm.server.submit(request, speculate=False)]

    async def main() -> list[list[int]]:
        return await asyncio.gather(*map(read, wanted))

    lm.prefix_cache.clear()
    lm.server.max_batch_size = together
    start = time.perf_counter()
    found = asyncio.run(main())
    return found, sum(map(len, found)) / (time.perf_counter() - start)


def first_token(lm: LanguageModel, prompt: str) -> float:
    """Milliseconds to the first token."""
    start = time.perf_counter()
    next(lm.generate(prompt, max_tokens=2, temperature=0))
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[None])
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for model in options.models or [None]:
        with pyml_nlp.load(model) as lm:
            wanted = requests(lm, options.prompts, options.tokens)
            ways = {f"{count:2} together": partial(batch, together=count) for count in (1, 4, 8, 16)}
            ways |= {" 8 async   ": partial(coroutines, together=8)}
            speeds: dict[str, list[float]] = {name: [] for name in ways}
            expected = batch(lm, wanted[:2], 1)[0]  # a warm-up
            for _ in range(options.rounds):
                for name, way in ways.items():
                    tokens, speed = way(lm, wanted)
                    speeds[name].append(speed)
                    expected = tokens if len(expected) < len(tokens) else expected
                    if tokens != expected:
                        raise SystemExit(f"{name}: the tokens differ")
            one = statistics.median(speeds[" 1 together"])
            print(f"{lm.name}: {options.prompts} texts")
            for name, found in speeds.items():
                speed = statistics.median(found)
                print(f"  {name} {speed:7.1f} tokens/s {speed / one:5.2f}x")
            pairs = zip(speeds[" 8 async   "], speeds[" 8 together"], strict=True)
            print(f"  async / together {statistics.median(a / b for a, b in pairs):.3f}")
            cold, warm = [], []
            for number in range(options.rounds):
                lm.prefix_cache.clear()
                cold.append(first_token(lm, INSTRUCTION * 8 + f"{number}"))
                warm.append(first_token(lm, INSTRUCTION * 8 + f"And {number}"))
            times = f"{statistics.median(cold):.1f} ms, with them kept {statistics.median(warm):.1f} ms"
            print(f"  first token after {len(lm.ids(INSTRUCTION * 8))} tokens: {times}")


if __name__ == "__main__":
    main()
