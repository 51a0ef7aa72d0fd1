"""The speed of texts by their rules of sampling, alone and in batches, in alternation in one process.

    python benchmarks/sampling.py --model gemma3-270m --rounds 7 --json sampling.json

Texts are generated: after a prompt from text.txt, every token is chosen by the rules and fed back, without speculation.
In each round every row is measured once, in an order that rotates. A ratio is the median over the rounds of the row's
tokens/s / those of greedy; for a batch, those of `forward` with this number of sequences: the kernels alone, all
logits, tokens of text.txt. "outside" is the fraction of the time outside the program's runs, in Python and code that it
calls; "choosing" is the time of choosing a token as reported by the steps.
Run it with the interpreter that has pyml. End-of-sequence tokens do not end texts, except with a schema.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import machine
import pyml_nlp
from models import NAMES, Files
from pyml_core import cpu
from pyml_core.want import Top
from pyml_nlp import GenerationOptions, LanguageModel, Request, SamplingOptions
from pyml_nlp.cli.stopwatch import Stopwatch

TEXT = Path(__file__).with_name("text.txt")
PROMPT = 64
"""Tokens of each prompt."""

SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "minItems": 40,
}
GREEDY, FULL_HEAD, JSON_SCHEMA = "greedy", "greedy, full head", "greedy, JSON schema"
RULES: dict[str, dict[str, Any]] = {
    GREEDY: {"temperature": 0.0},
    FULL_HEAD: {"temperature": 0.0},
    "temperature 1": {"temperature": 1.0},
    "1, top-k 64, top-p 0.95": {"temperature": 1.0, "top_k": 64, "top_p": 0.95},
    "0.8, top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "0.8, top-p 0.95, min-p 0.05": {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05},
    "greedy, penalty 1.1": {"temperature": 0.0, "repetition_penalty": 1.1},
    "0.8, 40, 0.95, 0.05, penalty 1.1": {
        "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1,
    },
    "1, typical 0.9": {"temperature": 1.0, "typical_p": 0.9},
    "greedy, logprobs 5": {"temperature": 0.0, "logprobs": 5},
    JSON_SCHEMA: {"temperature": 0.0, "schema": SCHEMA},
}  # fmt: skip
"""By name: the options of a row of one text. Other options are off."""

SAMPLED = "1, top-k 64, top-p 0.95"
BATCHES: dict[str, tuple[str, ...]] = {
    "greedy": (GREEDY,),
    "sampled": (SAMPLED,),
    "mixed": (GREEDY, SAMPLED, "0.8, top-p 0.95, min-p 0.05", "greedy, penalty 1.1"),
}
"""By name: the rules of a batch's texts, one after the other."""

FORWARD, FORWARD_TOP = "forward", "forward, most probable"


@dataclass(frozen=True)
class Sample:
    """A measurement: tokens, seconds, seconds inside the program's runs, and milliseconds of choosing a token."""

    tokens: int
    seconds: float
    inside: float
    choosing_ms: float | None = None


@dataclass
class Row:
    """A row of the table: one measurement for each round.

    Attributes:
        base: the name of the row that its speed is compared with.
    """

    name: str
    base: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Tokens/s of each round."""
        return [sample.tokens / sample.seconds for sample in self.samples]

    def as_json(self, base: Row) -> dict[str, Any]:
        """Everything measured, with medians."""
        choosing = [sample.choosing_ms for sample in self.samples if sample.choosing_ms is not None]
        return {
            "row": self.name,
            "tokens_per_s": median(self.speeds),
            "ratio_to": self.base,
            "ratio": median(own / other for own, other in zip(self.speeds, base.speeds, strict=True)),
            "outside_share": median(1 - sample.inside / sample.seconds for sample in self.samples),
            "choosing_ms": median(choosing) if choosing else None,
            "rounds": [vars(sample) for sample in self.samples],
        }


def options_of(rules: str, tokens: int, seed: int) -> GenerationOptions:
    """Return the options of a text by the name of its rules, independent of the model's defaults."""
    own = dict(RULES[rules])
    seed_of: Any = {"seed": seed} if own["temperature"] else {}
    return GenerationOptions(tokens, SamplingOptions(1.0)).replace(**own, **seed_of)


class Measurement:
    """All rows of one model.

    Args:
        lm: the model.
        full: this model without a screened head; None: its head is not screened.
        tokens: number of tokens of each text.
    """

    def __init__(self, lm: LanguageModel, full: LanguageModel | None, tokens: int) -> None:
        self.lm = lm
        self.endless = without_end(lm)
        self.full = None if full is None else without_end(full)
        self.tokens = tokens
        self.text = lm.tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special=False)
        self.prefix = list(lm.tokenizer.metadata.prefix)

    def prompt(self, number: int) -> list[int]:
        """Return the token ids of a prompt; prompts are consecutive parts of the text."""
        step = PROMPT + self.tokens
        start = number * step % (len(self.text) - step)
        return [*self.prefix, *self.text[start : start + PROMPT]]

    def single(self, rules: str, turn: int) -> Sample:
        """Generate texts, one after the other, until ``tokens`` are measured; the first token of each is not."""
        lm = {FULL_HEAD: self.full, JSON_SCHEMA: self.lm}.get(rules) or self.endless
        count, seconds, inside, choosing = 0, 0.0, 0.0, 0.0
        while count < self.tokens:
            options = options_of(rules, self.tokens + 1, 1000 * turn + count)
            generation = lm.generate(self.prompt(turn), options, speculate=False)
            next(generation)
            with Stopwatch(lm) as watch:
                start = time.perf_counter()
                for step in generation:
                    choosing += step.sample_ms
                    count += 1
                seconds += time.perf_counter() - start
            inside += watch.seconds
        return Sample(count, seconds, inside, choosing / count)

    def batch(self, rules: Sequence[str], size: int, turn: int) -> Sample:
        """Generate texts in one batch, each of ``tokens`` tokens; their prompts have been computed."""
        lm = self.endless
        lm.prefix_cache.clear()
        requests = []
        for number in range(size):
            options = options_of(rules[number % len(rules)], self.tokens, 1000 * turn + number)
            requests.append(Request(self.prompt(number), options))
            lm.prefill(self.prompt(number))
        with Stopwatch(lm) as watch:
            start = time.perf_counter()
            count = sum(
                len(completion.tokens)
                for completion in lm.generate_batch(requests, max_batch_size=size, speculate=False)
            )
            seconds = time.perf_counter() - start
        return Sample(count, seconds, watch.seconds)

    def forward(self, size: int, want: Top | None, _: int) -> Sample:
        """Run the kernels alone, once for each token of a batch's texts."""
        lm = self.endless
        sequences = []
        for number in range(size):
            cache = lm.new_cache(PROMPT + self.tokens + len(self.prefix))
            lm.forward([(cache, self.prompt(number), [])])
            at = number * (PROMPT + self.tokens) % (len(self.text) - PROMPT - self.tokens) + PROMPT
            sequences.append((cache, self.text[at : at + self.tokens]))
        with Stopwatch(lm) as watch:
            start = time.perf_counter()
            for number in range(self.tokens):
                batch = [(cache, ids[number : number + 1], None) for cache, ids in sequences]
                if want is None:
                    lm.forward(batch)
                else:
                    lm.forward(batch, want)
            seconds = time.perf_counter() - start
        return Sample(size * self.tokens, seconds, watch.seconds)

    def rows(self, rules: Sequence[str], sizes: Sequence[int]) -> dict[str, tuple[str, Callable[[int], Sample]]]:
        """Return for each row, by name: the row that it is compared with, and its measurement."""
        found: dict[str, tuple[str, Callable[[int], Sample]]] = {}
        for name in rules:
            if name != FULL_HEAD or self.full is not None:
                found[name] = (GREEDY, partial(self.single, name))
        for size in sizes:
            base = f"batch of {size}, {FORWARD}"
            found[base] = (base, partial(self.forward, size, None))
            if self.lm.model.screened:
                found[f"batch of {size}, {FORWARD_TOP}"] = (base, partial(self.forward, size, Top(1)))
            for kind, chosen in BATCHES.items():
                found[f"batch of {size}, {kind}"] = (base, partial(self.batch, chosen, size))
        return found


def without_end(lm: LanguageModel) -> LanguageModel:
    """Return the model without end-of-sequence tokens, so that texts have the requested length."""
    return LanguageModel(lm.model, lm.tokenizer, (), lm.context_length, lm.prefill_chunk, lm.name)


def measure(measurement: Measurement, rules: Sequence[str], sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Measure all rows, after an uncounted round."""
    ways = measurement.rows(rules, sizes)
    rows = {name: Row(name, base) for name, (base, _) in ways.items()}
    names = list(rows)
    for turn in range(rounds + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            sample = ways[name][1](turn)
            if turn:
                rows[name].samples.append(sample)
        print(f"round {turn} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return [row.as_json(rows[row.base]) for row in rows.values()]


def markdown(report: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{report['model']}, level {report['level']}, {report['threads']} threads, {report['head']} head, "
        f"{report['tokens']} tokens a text, {report['rounds']} rounds, medians. Load {report['load']}.",
        "",
        "| | tokens/s | ratio | outside | choosing, ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in report["results"]:
        choosing = "" if row["choosing_ms"] is None else f"{row['choosing_ms']:.3f}"
        figures = f"{row['tokens_per_s']:.1f} | {row['ratio']:.3f} | {row['outside_share']:.1%} | {choosing}"
        lines.append(f"| {row['row']} | {figures} |")
    return "\n".join(lines) + "\n"


def chosen_rules(names: Sequence[str] | None) -> list[str]:
    """Return the rules of rows of one text: all, or greedy and those whose name contains one of ``names``."""
    if names is None:
        return list(RULES)
    return [rules for rules in RULES if rules == GREEDY or any(name in rules for name in names)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pyml-bench"
    parser.add_argument("--model", help=f"{', '.join(NAMES)}, a file or a folder (default: the embedded model)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each text (default: %(default)s)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rules", nargs="*", metavar="WORD", help="only rules whose name contains a WORD, and greedy")
    parser.add_argument("--batches", nargs="*", type=int, default=[8, 16, 32], metavar="N",
                        help="sizes of batches (default: 8 16 32; none: no batches)")  # fmt: skip
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments and models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to this file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.tokens < 1 or any(size < 1 for size in options.batches):
        parser.error("--rounds, --tokens and --batches must be > 0")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    options = parse(arguments)
    name = options.model
    source = Files(name, options.envs / "models", options.envs).gguf() if name in NAMES else name
    with pyml_nlp.load(source, threads=options.threads) as lm:
        full = pyml_nlp.load(source, threads=options.threads, screen=False) if lm.model.screened else None
        results = measure(
            Measurement(lm, full, options.tokens), chosen_rules(options.rules), options.batches, options.rounds
        )
        report: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "machine": machine.describe(),
            "load": round(os.getloadavg()[0], 2),
            "model": name or Path(lm.name).name,
            "level": cpu.level(),
            "threads": lm.model.program.threads,
            "head": "screened" if lm.model.screened else "full",
            "tokens": options.tokens,
            "prompt": f"{PROMPT} tokens of {TEXT.name}",
            "rounds": options.rounds,
            "results": results,
        }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(markdown(report))


if __name__ == "__main__":
    main()
