"""Names in checkpoints: either one of a tied pair, buffers, additional layers."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from nn_models import CONFIGS, F32Array, gguf_metadata, gguf_weights, make, random_weights

from pyml_nn.errors import WeightsError
from pyml_nn.models import architecture_of, llama
from pyml_nn.weights.names import NameRules, find, is_buffer

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
EMBEDDINGS = ("wte.weight", "word_embeddings.weight", "embed_tokens.weight", "embed_in.weight")
HEADS = {"gpt_neox": "embed_out.weight"}
LAYERS = {
    "gpt2": ("transformer.h", "attn"),
    "falcon": ("transformer.h", "self_attention"),
    "gpt": ("gpt_neox.layers", "attention"),
}
BUFFERS = [
    "rotary_emb.inv_freq", "rotary_emb.original_inv_freq", "rotary_emb_local.inv_freq", "rotary_emb.cos_cached",
    "rotary_emb.sin_cached", "rotary_emb._cos_cached", "rotary_emb.cos_sin_cache", "maybe_rotary.inv_freq",
    "rotary_emb.sliding_attention_inv_freq", "rotary_pos_emb.inv_freq", "rope.freqs", "rope.freqs_cis",
]  # fmt: skip


def logits(values: dict[str, Any], weights: dict[str, F32Array]) -> Any:
    model = make(values, weights=weights)
    return model.forward([(model.new_cache(), IDS, range(len(IDS)))])[0]


def head_of(name: str) -> str:
    """The name of the head."""
    return HEADS.get(name, "lm_head.weight")


def tied(name: str) -> tuple[dict[str, Any], dict[str, F32Array], str]:
    """A configuration with a tied head, weights, and the embedding's name."""
    values = {**CONFIGS[name], "tie_word_embeddings": True}
    weights = {key: array for key, array in random_weights(values).items() if key != head_of(name)}
    return values, weights, next(key for key in weights if key in EMBEDDINGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_either_of_a_tied_pair(name: str) -> None:
    values, weights, embedding = tied(name)
    head = head_of(name)
    expected = logits(values, weights)
    renamed = {head if key == embedding else key: array for key, array in weights.items()}
    np.testing.assert_array_equal(logits(values, renamed), expected)
    np.testing.assert_array_equal(logits(values, {**weights, head: weights[embedding]}), expected)
    other = np.ascontiguousarray(weights[embedding][::-1])  # a separate head is used, regardless of the configuration
    bias = {key: array[::-1] for key, array in weights.items() if key == "lm_head.bias"}
    np.testing.assert_array_equal(logits(values, {**weights, head: other} | bias), expected[:, ::-1])
    with pytest.raises(WeightsError, match=f"{embedding}: missing"):
        make(values, weights={key: array for key, array in weights.items() if key != embedding})
    with pytest.raises(WeightsError, match=f"{embedding}: missing"):
        make({**values, "tie_word_embeddings": False}, weights=renamed)


@pytest.mark.parametrize("name", CONFIGS)
def test_buffers_are_passed_over(name: str, caplog: pytest.LogCaptureFixture) -> None:
    values = CONFIGS[name]
    weights = random_weights(values)
    expected = logits(values, weights)
    table = np.full((1, 1, 4, 4), np.nan, np.float32)
    layers, attention = LAYERS.get(name.partition("_")[0], ("model.layers", "self_attn"))
    places = [f"{layers}.0.{attention}.", f"{layers}.1.{attention}.", "model.", ""]
    buffers = {place + buffer: table for place in places for buffer in BUFFERS}
    buffers |= {"transformer.position_ids": table}
    np.testing.assert_array_equal(logits(values, {**weights, **buffers}), expected)
    assert not caplog.records


@pytest.mark.parametrize(
    "name",
    ["inv_freq", "model.inv_freq", "rotary_emb.inv_freq.weight", "model.rotary_emb.weight", "rotary_emb.scale",
     "model.layers.0.self_attn.rotary_emb.bias", "layers.0.mlp.cos_cached", "rope.inv_freq_2"],
)  # fmt: skip
def test_names_of_other_tensors_are_not_buffers(name: str) -> None:
    assert not is_buffer(name)


def test_masks_of_other_models_than_gpt2() -> None:
    for name, values in CONFIGS.items():
        masks = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
        if name == "gpt2":
            make(values, weights={**random_weights(values), **masks})
        else:
            with pytest.raises(WeightsError, match=r"h\.0\.attn\.bias: unknown tensor"):
                make(values, weights={**random_weights(values), **masks})


@pytest.mark.parametrize("name", CONFIGS)
def test_more_layers_than_the_configuration_has(name: str, caplog: pytest.LogCaptureFixture) -> None:
    values = CONFIGS[name]
    key = "n_layer" if name == "gpt2" else "num_hidden_layers"
    whole = random_weights({**values, key: values[key] + 2})
    weights = {kept: array for kept, array in whole.items() if kept in random_weights(values)}
    assert len(weights) < len(whole)
    expected = logits(values, weights)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "pyml.load"):
        np.testing.assert_array_equal(logits(values, whole), expected)
        make(values, weights={**weights, f"{LAYERS.get(name.partition('_')[0], ('layers',))[0]}.9.x": expected})
    first = values[key]
    assert [record.message for record in caplog.records] == [
        f"weights: layers {first} to {first + 1} are left out, since the configuration has fewer layers",
        "weights: layer 9 is left out, since the configuration has fewer layers",
    ]


def test_layers_of_a_gguf_file_are_all_wanted() -> None:
    """The writer of its tensors wrote its metadata, too."""
    values = CONFIGS["llama"]
    whole = {**values, "num_hidden_layers": 3}
    weights = gguf_weights(whole, random_weights(whole))
    assert architecture_of(gguf_metadata(values), "m.gguf") is llama
    with pytest.raises(WeightsError, match=r"blk\.2\.\S+: unknown tensor"):
        llama.Model(llama.Config.from_gguf(gguf_metadata(values)), weights, threads=1)


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "an adapter (LoRA) that is not merged"),
        ("model.layers.0.mlp.up_proj.qweight", "weights quantised with GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.scales", "weights quantised with GPTQ, AWQ or MLX"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "weights quantised to FP8"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "weights quantised with bitsandbytes"),
        ("model.layers.0.mlp.up_proj.weight_packed", "weights quantised with compressed-tensors"),
    ],
)  # fmt: skip
def test_where_an_unknown_tensor_comes_from(name: str, origin: str) -> None:
    with pytest.raises(WeightsError) as caught:
        find([name], {}, NameRules(), gguf=False)
    assert str(caught.value).startswith(f"{name}: unknown tensor, which the model would not use (it is of {origin}")


@pytest.mark.parametrize(
    "name", ["x" * 100_000, "a\nb", "rope" * 50_000 + ".cos" * 10_000 + ".", ".".join("9" * 50_000)]
)
def test_hostile_names(name: str) -> None:
    with pytest.raises(WeightsError) as caught:
        find([name], {"layers.0.w": ["layers.0.w"]}, NameRules(), gguf=False)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
