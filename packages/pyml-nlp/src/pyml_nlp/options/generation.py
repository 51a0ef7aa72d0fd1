"""How a text is generated: its length, how its tokens are chosen, and where it ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..structured.grammar import Grammar, one_grammar
from ..values import choice, flag, stop_ids, texts, whole, without_none
from .adapters import adapter_name
from .checks import given, instance
from .sampling import SAMPLING, SamplingOptions

if TYPE_CHECKING:
    from typing import Unpack

    from .keywords import GenerationKeywords, LogitsProcessor, Overflow

ERROR, SHIFT = "error", "shift"
POLICIES = (ERROR, SHIFT)

DEFAULT_SAMPLING = SamplingOptions(temperature=0.8, top_p=0.95, min_p=0.05)
"""The sampling of a model whose files say nothing about it."""

_GRAMMARS = ("schema", "regex", "grammar")


@dataclass(frozen=True)
class GenerationOptions:
    """How a text is generated.

    Attributes:
        max_tokens: maximum number of tokens to generate; an end-of-sequence token counts.
        sampling: how tokens are chosen.
        stop: strings that end the text; the text does not contain them. See :class:`.StopStrings`.
        stop_ids: token ids that end the text as an end-of-sequence token does.
        include_stop: whether the text contains the stop string that ends it.
        grammar: a grammar that the text has to match; see :mod:`pyml_nlp.structured`. With the finish reason
            ``"length"`` the text is the beginning of one that matches.
        logprobs: number of most probable tokens that each step reports, with their log probabilities and that of its
            own token. None: no log probabilities.
        overflow: what happens when the context is full. ``"error"`` refuses a prompt that does not fit, and ends a text
            there; ``"shift"`` forgets the older half of the context and goes on, see
            :mod:`pyml_nlp.generation.context_shift`.
        n_keep: number of tokens at the beginning that a context shift keeps; None: a beginning-of-sequence token.
        sample_index: distinguishes several texts of the same prompt and seed: a part of the key of the sampling noise.
        logits_processor: ``f(ids, logits)``, called for each token with the ids so far, prompt included, and a copy of
            the model's logits, float32 (V,); it returns the logits to which the rules and the grammar are applied. Log
            probabilities are of these, too. An exception ends the text with an error.
        adapter: name of the adapter that the model was loaded with and that the text is generated with; None: none.

    Values are converted once, here: NumPy's scalars to Python's, lists to tuples, None to the default.

    Raises:
        ArgumentError: a value of the wrong type or out of its range.
    """

    max_tokens: int = 256
    sampling: SamplingOptions = DEFAULT_SAMPLING
    stop: Sequence[str] = ()
    stop_ids: Collection[int] = ()
    include_stop: bool = False
    grammar: Grammar | None = None
    logprobs: int | None = None
    overflow: Overflow = "error"
    n_keep: int | None = None
    sample_index: int = 0
    logits_processor: LogitsProcessor | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        own = without_none(self)
        instance("sampling", own["sampling"], SamplingOptions)
        if own["grammar"] is not None:
            instance("grammar", own["grammar"], Grammar)
        own |= {
            "max_tokens": whole("max_tokens", own["max_tokens"], 0),
            "stop": texts("stop", own["stop"]),
            "stop_ids": stop_ids("stop_ids", own["stop_ids"]),
            "include_stop": flag("include_stop", own["include_stop"]),
            "logprobs": None if self.logprobs is None else whole("logprobs", self.logprobs, 0),
            "overflow": choice("overflow", own["overflow"], POLICIES),
            "n_keep": None if self.n_keep is None else whole("n_keep", self.n_keep, 0),
            "sample_index": whole("sample_index", own["sample_index"], 0),
            "adapter": adapter_name(own["adapter"]),
            "logits_processor": _processor(own["logits_processor"]),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Unpack[GenerationKeywords]) -> GenerationOptions:
        """A copy with some fields changed, those of its sampling included; None leaves a field as it is.

        Args:
            changes: fields of this class and of :class:`.SamplingOptions`; or a grammar as ``schema`` (a JSON schema,
                its text or a class), ``regex`` (a regular expression) or ``grammar`` (a Lark grammar).

        Raises:
            ArgumentError: an unknown name, or a value of the wrong type or out of its range.
            GrammarError: a grammar that cannot be used, or more than one.
        """
        new = given(changes, GENERATION)
        rules: Any = {name: new.pop(name) for name in list(new) if name in SAMPLING}
        if rules:
            sampling = instance("sampling", new.get("sampling", self.sampling), SamplingOptions)
            new["sampling"] = sampling.replace(**rules)
        forms = {name: new.pop(name) for name in _GRAMMARS if name in new}
        if list(forms) == ["grammar"] and isinstance(forms["grammar"], Grammar):
            new |= forms
        elif forms:
            new["grammar"] = one_grammar(**forms)
        return replace(self, **new) if new else self

    def seeded(self) -> GenerationOptions:
        """The same options, with a random seed if they need one and have none."""
        sampling = self.sampling.seeded()
        return self if sampling is self.sampling else replace(self, sampling=sampling)


GENERATION = SAMPLING | GenerationOptions.__dataclass_fields__.keys() | set(_GRAMMARS)
"""The keywords of :meth:`GenerationOptions.replace`."""


def options_of_call(
    options: GenerationOptions | int | None, changes: GenerationKeywords, defaults: GenerationOptions
) -> GenerationOptions:
    """Return the options of a call: the given ones, or the model's defaults, with changes.

    Args:
        options: an object means exactly its values; a number is ``max_tokens``, and the rest are the defaults.
        changes: keywords of the call.
        defaults: the model's.

    Raises:
        ArgumentError: neither options nor a number, ``max_tokens`` twice, or invalid changes.
    """
    if options is None:
        return defaults.replace(**changes)
    if not isinstance(options, Integral):
        return instance("options", options, GenerationOptions).replace(**changes)
    if changes.get("max_tokens") is not None:
        raise ArgumentError("is given twice: as the second argument and as a keyword", "max_tokens")
    changed: GenerationKeywords = {**changes, "max_tokens": whole("max_tokens", options, 0)}
    return defaults.replace(**changed)


def _processor(value: Any) -> Any:
    if value is not None and not callable(value):
        raise ArgumentError(f"must be a function of token ids and logits, got {quoted(value)}", "logits_processor")
    return value
