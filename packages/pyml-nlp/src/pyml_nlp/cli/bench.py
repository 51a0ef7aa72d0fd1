"""``pyml-bench``: tokens per second of prefill and decode, a row a test, like llama-bench."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyml_core.kv_layout import PAGE_TOKENS
from pyml_core.ops.screen import coarse_nbytes
from pyml_core.want import Top

from .adapters import adapters_of
from .bench_rows import About, Test, as_json, markdown, row_of, text_row
from .options import (
    SETTINGS,
    Command,
    check_model,
    choice,
    configure_logs,
    integer,
    log_options,
    memory_options,
    model_options,
    positive,
    verbosity,
)
from .output import Output, ProgressBar
from .sampling import HEADING, grammar_options, sampling_options

if TYPE_CHECKING:
    from typing import Unpack

    import numpy as np
    import numpy.typing as npt

    from pyml_nn import KVCache

    from ..language_model import LanguageModel
    from .arguments import BenchArguments

SEED = 42  # of the random token ids, the same in every run


MAX_BATCH = 1 << 16
"""Maximum number of sequences in a batch."""


@click.command("bench", cls=Command, context_settings=SETTINGS, short_help="Measure tokens per second.")
@model_options
@integer("-p", "prompt", default=512, show_default=True, metavar="N", help="Tokens of the prefill test.")
@integer("-n", "steps", default=64, show_default=True, metavar="N", help="Steps of the decode test.")
@integer("-d", "depth", default=0, show_default=True, metavar="N", help="Tokens before those timed.")
@integer("-b", "batch", default=1, show_default=True, metavar="N", help="Sequences side by side.")
@integer("-r", "repetitions", default=5, show_default=True, metavar="N", help="Repetitions.")
@click.option("--text", metavar="FILE", help="Feed the tokens of this text. [default: random token ids]")
@choice("md", "json")("-o", "output_format", default="md", show_default=True, metavar="md|json")
@sampling_options
@integer("--logprobs", metavar="N", heading=HEADING, help="Log probabilities of each token, and of the N largest.")
@grammar_options
@memory_options
@log_options
def command(**values: Unpack[BenchArguments]) -> None:
    """Measure MODEL: ppP, the prefill of P tokens, and tgN, N decode steps; -p 0 or -n 0 leaves one out.

    The first run of each test is not timed. The tokens fed are random, or those of --text, whatever the model predicts;
    the most probable token of each step is found, and not used. With --text a large q8_0 head is screened, as in
    generation: how much that saves depends on the text. With random tokens all logits are computed.

    With any option of sampling or structured output, such as --temperature 1, the tests of decoding generate texts by
    these rules and the model's own defaults, as pyml-infer does but without drafts: of N tokens, after a prompt of -d
    tokens (64 without it) of a built-in text or of --text.
    """
    from .collect import rule_changes

    level = verbosity(values["verbose"], values["quiet"])
    source = check_model(values["model"], values["safetensors"], values["threads"])
    prompt, steps, depth, batch = values["prompt"], values["steps"], values["depth"], values["batch"]
    repetitions, dtype = values["repetitions"], values["dtype"]
    positive({"-b": batch, "-r": repetitions})
    if batch > MAX_BATCH:
        raise click.UsageError(f"-b must be <= {MAX_BATCH}, got {batch}")
    for name, value in (("-p", prompt), ("-n", steps), ("-d", depth)):
        if value < 0:
            raise click.UsageError(f"{name} must be >= 0, got {value}")
    tests = [test for test in (Test(prompt, 0, depth, batch), Test(0, steps, depth, batch)) if test.tokens]
    if not tests:
        raise click.UsageError("nothing to measure: -p and -n are both 0")
    changes = rule_changes(values)
    if changes is not None and not steps:
        raise click.UsageError("options of sampling are for decoding, but -n is 0")
    adapters = adapters_of(values["lora"])
    configure_logs(level or -1)  # rows are the result: log nothing else unless -v asks for it
    output = Output()

    from pyml_core import cpu

    from .. import load

    with ProgressBar("Loading", level >= 0) as bar:
        screen = (values["text"] is not None or changes is not None) and not values["full_head"]
        lm = load(
            source,
            dtype=dtype,
            threads=values["threads"],
            screen=screen,
            kv_dtype=values["kv_dtype"],
            allow_unknown_keys=values["allow_unknown_keys"],
            adapters=adapters,
            progress=bar,
        )
    text_ids = None if values["text"] is None else _text_ids(lm, Path(values["text"]))
    about = About(lm.model.program.threads, cpu.level(), lm.name, dtype, _head(lm), lm.kv_layout.dtype)
    rows = []
    for test in tests:
        if test.steps and changes is not None:
            from .bench_texts import measure_texts, options_of_texts, rules

            options = options_of_texts(lm, changes).replace(adapter=next(iter(lm.adapters), None))
            texts = measure_texts(lm, test, options, repetitions, text_ids)
            rows.append(text_row(test, texts, rules(options), about))
        else:
            rows.append(row_of(test, measure(lm, test, repetitions, text_ids), *cost(lm, test), about))
    output.write(as_json(rows) if values["output_format"] == "json" else markdown(rows))


def measure(
    lm: LanguageModel, test: Test, repetitions: int, text_ids: npt.NDArray[np.int64] | None = None
) -> list[float]:
    """Seconds of each repetition.

    Raises:
        PymlError: the test does not fit the context, or the text is too short for it.
    """
    from pyml_core.errors import PymlError

    need = test.depth + test.tokens
    if need > lm.context_length:
        raise PymlError(f"{test.name}: needs {need} positions, the context holds {lm.context_length}")
    sequences = _sequences(lm, test, text_ids)
    caches = [lm.new_cache(need, next(iter(lm.adapters), None)) for _ in range(test.batch)]
    if test.depth:
        for cache, ids in zip(caches, sequences, strict=True):
            lm.forward([(cache, ids[: test.depth], [])])
    run = _prefill if test.prompt else _decode
    run(lm, caches, sequences, test)  # not timed
    samples = []
    for _ in range(repetitions):
        for cache in caches:
            cache.trim(test.depth)
        start = time.perf_counter()
        run(lm, caches, sequences, test)
        samples.append(time.perf_counter() - start)
    return samples


def cost(lm: LanguageModel, test: Test) -> tuple[int, int]:
    """Bytes of weights, keys and values read in one repetition, and operations of the matrices and of attention in it.

    A run of the model reads every matrix once, and of each sequence the keys and values that its tokens see. Of a
    screened head it reads the coarse part; the few rows that are rescored are not counted.
    """
    total, chunk = test.batch * test.tokens, lm.prefill_chunk
    if test.prompt:
        starts = range(test.depth, test.depth + test.prompt, chunk)
        slices = [(start, min(chunk, test.depth + test.prompt - start)) for start in starts] * test.batch
        runs, outputs = -(-total // chunk), test.batch
        output_runs = len({(test.prompt * (i + 1) - 1) // chunk for i in range(test.batch)})
    else:
        slices = [(position, 1) for position in range(test.depth, test.depth + test.steps)] * test.batch
        outputs = total
        runs = output_runs = test.steps * -(-test.batch // chunk)
    read = flops = 0
    program = lm.model.program
    for operation in program.operations:
        params = operation.params
        if operation.kind in ("linear", "low_rank"):
            of_outputs = operation.output is not None and operation.output.rows == "outputs"
            nbytes = sum(matrix.nbytes for matrix in params["matrices"])
            if program.screening and operation is program.operations[-1]:
                nbytes = coarse_nbytes(program.screening[0])
            read += (output_runs if of_outputs else runs) * nbytes
            weights = sum(matrix.shape[0] * matrix.shape[1] for matrix in params["matrices"])
            flops += 2 * (outputs if of_outputs else total) * weights
        elif operation.kind == "attention":
            layout, window = lm.kv_layout, params["window"] or 1 << 62
            position_bytes = layout.layer_bytes // PAGE_TOKENS
            for start, count in slices:
                read += position_bytes * (min(start, window - 1) + count)
                seen = sum(min(position + 1, window) for position in range(start, start + count))
                flops += 4 * params["n_heads"] * layout.head_dim * seen
    return read, flops


def _head(lm: LanguageModel) -> str:
    return "screened" if lm.model.screened else "full"


def _forward(lm: LanguageModel, batch: list[tuple[KVCache, list[int], None]]) -> None:
    """One run of the model, and the most probable token of each sequence."""
    if lm.model.screened:
        for (top,) in lm.forward(batch, Top(1)):
            top.logits.argmax()
    else:
        for logits in lm.forward(batch):
            logits[-1].argmax()


def _prefill(lm: LanguageModel, caches: list[KVCache], sequences: list[list[int]], test: Test) -> None:
    _forward(lm, [(cache, ids[test.depth :], None) for cache, ids in zip(caches, sequences, strict=True)])


def _decode(lm: LanguageModel, caches: list[KVCache], sequences: list[list[int]], test: Test) -> None:
    for position in range(test.depth, test.depth + test.steps):
        _forward(
            lm, [(cache, ids[position : position + 1], None) for cache, ids in zip(caches, sequences, strict=True)]
        )


def _sequences(lm: LanguageModel, test: Test, text_ids: npt.NDArray[np.int64] | None) -> list[list[int]]:
    """The tokens of each sequence: random ones, or windows of the text that start evenly spread over it."""
    import numpy as np

    from pyml_core.errors import PymlError

    need = test.depth + test.tokens
    if text_ids is None:
        return np.random.default_rng(SEED).integers(0, lm.vocab_size, (test.batch, need)).tolist()  # type: ignore[no-any-return]
    if len(text_ids) < need:
        raise PymlError(f"{test.name}: needs a text of {need} tokens, --text has {len(text_ids)}")
    starts = np.linspace(0, len(text_ids) - need, test.batch).astype(int)
    return [text_ids[start : start + need].tolist() for start in starts]


def _text_ids(lm: LanguageModel, path: Path) -> npt.NDArray[np.int64]:
    import numpy as np

    from pyml_core.errors import PymlError

    from ..text_files import read_text

    try:
        text = read_text(str(path))
    except PymlError as error:
        raise PymlError(f"Failed to read text file: {error}") from None
    return np.array(lm.ids(text), np.int64)
