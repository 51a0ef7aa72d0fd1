"""Nothing that belongs to one model gets into another: keys and values above all, which would change its numbers."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from pyml_core import Choice, Sample, Sampler, Top
from pyml_core.cpu import level, levels, use_level
from pyml_core.errors import PymlError, ShapeError
from pyml_core.sampling import SamplingRules
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.iterator import Generation
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.request import Request
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions
from pyml_nlp.structured.grammar import Grammar
from pyml_nn import CacheFileError, KVCache
from tests.helpers import tiny_files, tiny_models

IDS = [int(i) for i in np.random.RandomState(7).randint(10, 300, 90)]
BASE = tiny_models.MODELS["llama"]


def _folder(root: Path, name: str, **changes: Any) -> Path:
    return tiny_files.write_hf(dataclasses.replace(BASE, **changes), root / name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of equal shapes: other weights, another angle of rotation, another architecture."""
    root = tmp_path_factory.mktemp("foreign")
    return {
        "base": _folder(root, "base"),
        "weights": _folder(root, "weights", seed=BASE.seed + 1),
        "config": _folder(root, "config", config={**BASE.config, "rope_theta": 9000.0}),
        "architecture": _folder(root, "architecture", config={**BASE.config, "model_type": "mistral"}),
    }


@pytest.fixture(scope="module")
def lm(folders: dict[str, Path]) -> Iterator[LanguageModel]:
    """The model that nothing is to get into."""
    with pyml_nlp.load(folders["base"], threads=1) as loaded:
        yield loaded


KINDS = ("weights", "config", "architecture", "dtype", "kv_dtype", "level")


@pytest.fixture(scope="module", params=KINDS)
def foreign(request: pytest.FixtureRequest, folders: dict[str, Path], lm: LanguageModel) -> Iterator[LanguageModel]:
    """A model with other keys and values, some of which have the same size in memory."""
    kind = request.param
    options: dict[str, dict[str, Any]] = {
        "dtype": {"dtype": "bf16", "kv_dtype": lm.kv_layout.dtype},
        "kv_dtype": {"kv_dtype": "f32"},
    }
    with ExitStack() as stack:
        if kind == "level":
            others = [name for name in levels() if name != level()]
            if not others:
                pytest.skip("this CPU has one level of kernels alone")
            stack.enter_context(use_level(others[0]))
        loaded = pyml_nlp.load(folders.get(kind, folders["base"]), threads=1, **options.get(kind, {}))
        loaded.prefill(IDS)
    with loaded:
        yield loaded


def _forward(lm: LanguageModel, cache: KVCache) -> None:
    lm.forward([(lm.new_cache(), [1], None), (cache, [1], None)])


def _forward_top(lm: LanguageModel, cache: KVCache) -> None:
    lm.forward([(cache, [1], None)], Top(3))


def _forward_sample(lm: LanguageModel, cache: KVCache) -> None:
    sampler = Sampler(SamplingRules(greedy=True), 0, lm.vocab_size)
    lm.model.forward([(cache, [1], None)], Sample([Choice(sampler, 1)], 4))


def _generate(lm: LanguageModel, cache: KVCache) -> None:
    lm.generate([1, 2], max_tokens=4, cache=cache, temperature=0)  # refused here, not at the first step


def _generate_from_an_empty_one(lm: LanguageModel, cache: KVCache) -> None:
    lm.generate([*IDS, 1], max_tokens=4, cache=cache.fork(0), temperature=0)


def _add(lm: LanguageModel, cache: KVCache) -> None:
    lm.prefix_cache.add(cache)


def _add_an_empty_one(lm: LanguageModel, cache: KVCache) -> None:
    lm.prefix_cache.add(cache.fork(0))


def _set_prefix_cache(lm: LanguageModel, cache: KVCache) -> None:
    prefixes = PrefixCache()
    prefixes.add(cache)
    lm.prefix_cache = prefixes


def _make_with_prefix_cache(lm: LanguageModel, cache: KVCache) -> None:
    prefixes = PrefixCache()
    prefixes.add(cache)
    LanguageModel(lm.model, lm.tokenizer, lm.eos_ids, prefix_cache=prefixes)


def _replace(lm: LanguageModel, cache: KVCache) -> None:
    lm.new_cache().replace(cache)


DOORS: list[Callable[[LanguageModel, KVCache], None]] = [
    _forward, _forward_top, _forward_sample, _generate, _generate_from_an_empty_one, _add, _add_an_empty_one,
    _set_prefix_cache, _make_with_prefix_cache, _replace,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_foreign_cache_is_refused(
    door: Callable[[LanguageModel, KVCache], None], lm: LanguageModel, foreign: LanguageModel
) -> None:
    lm.prefix_cache.clear()
    for cache in (foreign.prefill(IDS), foreign.prefill(IDS).fork(70)):
        before = cache.ids
        with pytest.raises(ShapeError, match=r"^[\w ]+: expected a KV cache .*, found one [^\n]*$"):
            door(lm, cache)
        assert cache.ids == before
    assert len(lm.prefix_cache) == 0


def test_a_foreign_file_is_refused(lm: LanguageModel, foreign: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    foreign.prefill(IDS).save(path)
    with pytest.raises(CacheFileError, match=r"cannot load the KV cache: expected a KV cache .*, found one "):
        lm.load_cache(path)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_one_number_of_the_weights_makes_another_model(
    fraction: float, lm: LanguageModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As in a fine-tune of a few rows: files of equal size that differ in two bytes."""
    shutil.copytree(folders["base"], tmp_path / "tuned")
    path = tmp_path / "tuned" / "model.safetensors"
    data = bytearray(path.read_bytes())
    place = int(fraction * len(data)) // 4 * 4  # the lower half of a float32: data begin at a multiple of 8
    data[place : place + 2] = bytes(255 - byte for byte in data[place : place + 2])
    path.write_bytes(data)
    with pyml_nlp.load(tmp_path / "tuned", threads=1) as tuned, pytest.raises(ShapeError, match="of another model"):
        lm.prefix_cache.add(tuned.prefill(IDS))


def test_a_foreign_text_is_refused(lm: LanguageModel, foreign: LanguageModel) -> None:
    """A text that another model's generator has begun, and a chat whose model was changed."""
    completion = Generator(foreign).start(Request(IDS, GenerationOptions(3, SamplingOptions(0.0))))
    with pytest.raises(ShapeError, match=r"expected a KV cache .*, found one "):
        list(Generation(Generator(lm), completion))
    lm.prefill([*IDS, 1])  # now the prefix cache would have something for it
    again = Generator(foreign).start(Request([*IDS, 1], GenerationOptions(3, SamplingOptions(0.0))))
    with pytest.raises(ShapeError, match=r"expected a KV cache .*, found one "):
        list(Generation(Generator(lm), again))


def test_prefix_caches_hold_what_came_first(lm: LanguageModel, foreign: LanguageModel) -> None:
    prefixes = PrefixCache()
    one = LanguageModel(lm.model, lm.tokenizer, lm.eos_ids, prefix_cache=prefixes)
    prefixes.clear()
    with pytest.raises(ShapeError, match=r"^prefix cache: expected a KV cache "):
        LanguageModel(foreign.model, foreign.tokenizer, prefix_cache=prefixes)
    assert one.generate_text(IDS, max_tokens=4, temperature=0) == lm.generate_text(IDS, max_tokens=4, temperature=0)


def test_the_same_file_loaded_twice(lm: LanguageModel, folders: dict[str, Path], tmp_path: Path) -> None:
    """Caches may cross: everything that computes is equal, whatever the threads, the chunks, the context, the head."""
    last = [1, 2]
    (expected,) = lm.forward([(lm.prefill(IDS), last, None)])
    text = lm.generate_text([*IDS, *last], max_tokens=12, temperature=0)
    options = {"threads": 2, "prefill_chunk": 17, "context_length": 128, "screen": False}
    with pyml_nlp.load(folders["base"], **options) as twin:  # type: ignore[arg-type]
        twin.prefill(IDS).save(tmp_path / "cache")
        for cache in (twin.prefill(IDS), lm.load_cache(tmp_path / "cache")):
            (found,) = lm.forward([(cache, last, None)])
            assert np.array_equal(found, expected)
        lm.prefix_cache.clear()
        lm.prefix_cache.add(twin.prefill(IDS))
        generation = lm.generate([*IDS, *last], max_tokens=12, temperature=0)
        list(generation)
        assert (generation.completion.reused, generation.text) == (len(IDS), text)
        shared = LanguageModel(twin.model, twin.tokenizer, twin.eos_ids, 128, prefix_cache=lm.prefix_cache)
        assert shared.generate_text([*IDS, *last], max_tokens=12, temperature=0) == text


# ---- closed models


def test_a_closed_model_refuses_caches(folders: dict[str, Path], lm: LanguageModel, tmp_path: Path) -> None:
    """Its results outlive it: they can be saved, and used with the same model loaded again."""
    with pyml_nlp.load(folders["base"], threads=1) as closed:
        cache = closed.prefill(IDS)
    cache.save(tmp_path / "cache")
    uses: list[Callable[[], object]] = [
        lambda: closed.forward([(cache, [1], None)]),
        lambda: closed.generate([1], max_tokens=3, cache=cache, temperature=0),
        lambda: closed.load_cache(tmp_path / "cache"),
        closed.new_cache,
        lambda: Generator(lm, draft_model=closed),
    ]
    for use in uses:
        with pytest.raises(PymlError, match="it is closed"):
            use()
    assert cache.ids == IDS
    (expected,) = lm.forward([(lm.prefill(IDS), [1], None)])
    for alive in (cache, lm.load_cache(tmp_path / "cache")):
        assert np.array_equal(lm.forward([(alive, [1], None)])[0], expected)


# ---- other things that one model might get from another


def test_a_trace_sees_its_own_model_alone(lm: LanguageModel, foreign: LanguageModel) -> None:
    with lm.trace(tensors="layers.*") as trace:
        foreign.logits(IDS[:5])
    assert trace.events == []
    with pytest.raises(PymlError):
        trace.tensor("layers.0")


def test_a_grammar_is_compiled_for_each_tokenizer(lm: LanguageModel, tiny_dirs: dict[str, Path]) -> None:
    """One request, two vocabularies: the text of each matches, and is that of its model alone."""
    pytest.importorskip("llguidance")
    expression = "[a-d]{2,4}(yes|no)"
    with pyml_nlp.load(tiny_dirs["gemma3"], threads=1) as other:
        assert other.tokenizer.kind != lm.tokenizer.kind
        alone = [model.generate_text([10, 11], max_tokens=12, regex=expression, temperature=0) for model in (lm, other)]
        options = GenerationOptions(12, SamplingOptions(0.0), grammar=Grammar("regex", expression))
        request = Request([10, 11], options)
        for _ in range(2):
            for model, text in zip((lm, other), alone, strict=True):
                (completion,) = model.generate_batch([request])
                assert completion.text == text
                assert completion.text[:1] in "abcd"


# ---- draft models


def _with_more_rows(lm: LanguageModel, rows: int) -> LanguageModel:
    """The base model with more rows than it has tokens, of which some are the most probable ones now and then."""
    weights = BASE.weights()
    more = rows - len(weights["lm_head.weight"])
    for name, scale in (("model.embed_tokens.weight", 1.0), ("lm_head.weight", 1.4)):
        weights[name] = np.concatenate([weights[name], scale * weights[name][:more]])
    model = tiny_files.build(dataclasses.replace(BASE, config={**BASE.config, "vocab_size": rows}), weights, threads=1)
    return LanguageModel(model, lm.tokenizer, lm.eos_ids, name=f"{rows} rows")


@pytest.mark.parametrize(
    "rules",
    [{"temperature": 0}, {"temperature": 1.5, "seed": 3}, {"temperature": 0, "logit_bias": {390: -20.0, 7: 1.0}}],
)
def test_a_draft_model_with_another_number_of_rows(rules: dict[str, Any], lm: LanguageModel) -> None:
    """Rows beyond the tokens (many models are filled up with some) are neither drafted nor run by who lacks them."""
    wide = _with_more_rows(lm, 400)
    assert (
        max(list(wide.generate(IDS, max_tokens=60, temperature=0)), key=lambda step: step.token).token >= lm.vocab_size
    )
    for model, draft in ((lm, wide), (wide, lm)):
        if model is lm and 390 in rules.get("logit_bias", {}):
            continue  # a bias for a row that it does not have
        alone = [step.token for step in model.generate(IDS, max_tokens=60, speculate=False, **rules)]
        generation = model.generate(IDS, max_tokens=60, draft_model=draft, **rules)
        assert [step.token for step in generation] == alone
