"""Whole models of GGUF types that are recoded: those of the decoded weights, and what pyml inspect says of them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import pyml_nlp
from pyml_nlp.cli.inspect import inspect
from pyml_nlp.formats.gguf import GGUFFile
from tests.helpers import tiny_files, tiny_models

TYPES = {
    "iq3_s": "q4_a32", "iq3_xxs": "q8_a32", "iq2_xxs": "q8_a32", "iq2_xs": "q8_0", "iq2_s": "q8_0",
    "iq1_s": "q4_a32", "tq1_0": "q4_0", "tq2_0": "q4_0",
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_logits_are_those_of_the_decoded_weights(kind: str, tmp_path: Path) -> None:
    path = tiny_files.write_gguf(tiny_models.QUANTIZED, tmp_path / "m.gguf", kind)
    same = tmp_path / "same.gguf"
    reader = gguf.GGUFReader(path)

    writer = gguf.GGUFWriter(same, tiny_files.gguf_architecture(tiny_models.QUANTIZED))
    tiny_files.write_metadata(writer, tiny_models.QUANTIZED)
    for tensor in reader.tensors:
        data = gguf.dequantize(tensor.data, tensor.tensor_type)
        if TYPES[kind] == "q8_0" and data.ndim == 2 and tensor.tensor_type.name == kind.upper():
            data = gguf.dequantize(
                gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0
            )
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = tiny_models.QUANTIZED.prompt
    with pyml_nlp.load(path, dtype="f32", threads=1) as lm, pyml_nlp.load(same, dtype="f32", threads=1) as decoded:
        assert np.array_equal(lm.logits(ids), decoded.logits(ids))
    with GGUFFile(path) as file:
        facts = inspect(file)
    assert {(tensor["type"], tensor["packed_type"]) for tensor in facts["tensors"] if len(tensor["shape"]) == 2} == {
        (kind.upper(), TYPES[kind])
    }
