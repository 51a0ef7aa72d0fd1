"""Configurations of Phi, and its head with a bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn_models import PHI, make

from pyml_core.want import Top, top_of
from pyml_nn.config.hf_file import repeats_built_ins
from pyml_nn.errors import ConfigError
from pyml_nn.layers.rope import Rope
from pyml_nn.models import phi
from pyml_nn.weights import spec

PHI_2 = {
    "_name_or_path": "microsoft/phi-2", "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "hidden_act": "gelu_new", "hidden_size": 2560,
    "initializer_range": 0.02, "intermediate_size": 10240, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "partial_rotary_factor": 0.4, "qk_layernorm": False, "resid_pdrop": 0.1, "rope_scaling": None,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.37.0",
    "use_cache": True, "vocab_size": 51200,
}  # fmt: skip


def test_published() -> None:
    config = phi.Config.from_hf(PHI_2)
    assert (config.head_dim, config.rope, config.activation) == (80, Rope(32, 1e4), "gelu_tanh")
    absent = {key: value for key, value in PHI_2.items() if key not in ("hidden_act", "layer_norm_eps")}
    assert phi.Config.from_hf(absent) == config  # transformers' defaults
    absent = {key: value for key, value in PHI_2.items() if key != "partial_rotary_factor"}
    assert phi.Config.from_hf(absent).rope.dim == 40
    assert repeats_built_ins({"model_type": "phi", "auto_map": {"AutoConfig": "configuration_phi.PhiConfig"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qk_layernorm": True}, "qk_layernorm: expected false or null"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor: expected a number from 0.001 to 1, found 0"),
        ({"hidden_act": "swish2"}, "hidden_act: expected one of gelu, .* found 'swish2'"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps: unknown key"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        phi.Config.from_hf({**PHI_2, **change})


def test_a_head_with_a_bias_is_not_screened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "SCREENED_ROWS", 16)
    model = make({**PHI, "hidden_size": 64, "intermediate_size": 64}, dtype="q8_0")
    head = model.program.operations[-1]
    assert (head.name, head.params["bias"].shape, head.params["matrices"][0].dtype) == ("head", (61,), "q8_0")
    assert (model.screened, head.params["matrices"][0].split) == (False, False)
    ids = [3, 1, 4, 1, 5]
    (full,) = model.forward([(model.new_cache(), ids, None)])
    ((top,),) = model.forward([(model.new_cache(), ids, None)], Top(5))
    assert np.array_equal(top.ids, top_of(full[0], 5).ids)
