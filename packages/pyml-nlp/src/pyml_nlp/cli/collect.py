"""The values that click passes to ``pyml-infer`` and ``pyml-bench``, as the arguments of pyml's own methods.

Everything is checked here before a model is loaded. An invalid value is the error that Python's methods raise, with the
name of the flag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .adapters import adapters_of, chosen_adapter
from .options import exclusive, positive, usage_error
from .reuse import check_reuse
from .sampling import chosen_grammar

if TYPE_CHECKING:
    from ..language_model import LanguageModel
    from ..options import GenerationKeywords, GenerationOptions, LoadOptions
    from .arguments import BenchArguments, GenerationArguments, InferArguments, RunArguments


def check_combinations(values: InferArguments) -> None:
    """Usage errors of options that cannot be used together."""
    prompt, batch_file = values["prompt"] is not None, values["batch_file"] is not None
    exclusive({"--prompt <TEXT>": prompt, "--batch-file <PATH>": batch_file})
    for name, given in (
        ("--prompt <TEXT>", prompt), ("--batch-file <PATH>", batch_file), ("--json", values["as_json"]),
        ("--echo", values["echo"]), ("--trace-out <PATH>", values["trace_out"] is not None),
        ("--prompt-cache <PATH>", values["prompt_cache"] is not None), ("--n", values["n"] is not None),
        ("--best-of", values["best_of"] is not None),
    ):  # fmt: skip
        exclusive({"--interactive": values["interactive"], name: given})
    several = (values["n"] or 1) > 1 or values["best_of"] is not None
    exclusive({"--stream": values["stream"], "--n" if values["best_of"] is None else "--best-of": several})
    exclusive({"--stream": values["stream"], "--json": values["as_json"]})
    exclusive({"--echo": values["echo"], "--json": values["as_json"]})
    positive({"--timeout": values["timeout"]})
    if values["logprobs"] is not None and not values["as_json"]:
        raise click.UsageError("--logprobs is supported with --json alone")
    if values["stream"] and batch_file:
        raise click.UsageError("--stream is not supported with --batch-file")
    check_reuse(values, values["batch_file"])


def run_arguments(values: GenerationArguments) -> RunArguments:
    """Timeout and speculation, with a draft model that is loaded here.

    Raises:
        PymlError: it cannot be loaded.
    """
    from .. import load

    draft_model = values["draft_model"]
    return {
        "timeout": values["timeout"],
        "speculate": not values["no_speculation"],
        "draft_model": None if draft_model is None else load(draft_model, threads=values["threads"]),
    }


def load_options(values: GenerationArguments) -> LoadOptions:
    """How to load the model.

    Raises:
        UsageError: an invalid value.
    """
    from ..errors import ArgumentError
    from ..options.load import LoadOptions

    try:
        return LoadOptions(
            dtype=values["dtype"],
            threads=values["threads"],
            context_length=values["context_len"],
            screen=not values["full_head"],
            kv_dtype=values["kv_dtype"],
            allow_unknown_keys=values["allow_unknown_keys"],
            adapters=adapters_of(values["lora"]),
        )
    except ArgumentError as error:
        raise usage_error(error) from None


def answer_options(lm: LanguageModel, changes: GenerationKeywords) -> GenerationOptions:
    """The options of a chat's answers: without --max-tokens, an answer ends where the model ends it.

    At the latest it ends with the context, or where keys and values would fill half of the free memory.
    """
    options = lm.generation_options.replace(**changes)
    if changes.get("max_tokens") is not None:
        return options
    from pyml_nn.memory import available_memory

    fitting = available_memory() // 2 * lm.context_length // lm.kv_layout.bytes_for(lm.context_length)
    return options.replace(max_tokens=min(lm.context_length, fitting))


def generation_changes(values: GenerationArguments, logprobs: int | None = None) -> GenerationKeywords:
    """The options of generation that were given: changes of the model's defaults.

    Raises:
        UsageError: an invalid value. PymlError: a file of a grammar that cannot be read.
    """
    from ..options.generation import SHIFT

    changes: GenerationKeywords = {
        **_sampling_changes(values, logprobs),
        "max_tokens": values["max_tokens"],
        "stop": values["stop"],
        "stop_ids": values["stop_id"],
        "include_stop": values["include_stop"],
        "overflow": "shift" if values["overflow"] == SHIFT else "error",
        "n_keep": values["n_keep"],
        "adapter": chosen_adapter(values["lora"]),
    }
    return _checked(changes)


def rule_changes(values: BenchArguments) -> GenerationKeywords | None:
    """The rules that were given, as changes of the model's defaults; None: none was given.

    Raises:
        UsageError: an invalid value. PymlError: a file of a grammar that cannot be read.
    """
    changes = _checked(_sampling_changes(values, values["logprobs"]))
    return None if all(value is None for value in changes.values()) else changes


def _sampling_changes(values: GenerationArguments | BenchArguments, logprobs: int | None) -> GenerationKeywords:
    """The options of sampling, structured output and log probabilities."""
    return {
        "temperature": values["temperature"],
        "top_k": values["top_k"],
        "top_p": values["top_p"],
        "min_p": values["min_p"],
        "typical_p": values["typical_p"],
        "repetition_penalty": values["repetition_penalty"],
        "frequency_penalty": values["frequency_penalty"],
        "presence_penalty": values["presence_penalty"],
        "logit_bias": values["logit_bias"],
        "order": values["sampler_order"],
        "seed": values["seed"],
        "logprobs": logprobs,
        "grammar": chosen_grammar(values),
    }


def _checked(changes: GenerationKeywords) -> GenerationKeywords:
    from ..errors import ArgumentError
    from ..options.generation import GenerationOptions

    try:
        GenerationOptions().replace(**changes)
    except ArgumentError as error:
        raise usage_error(error) from None
    return changes
