"""Make a GGUF file of google/gemma-3-1b-it's shape with random weights, in one block type.

    python random_gemma3.py q8_0|q4_0 VOCABULARY.gguf FILE.gguf

For speed only. The vocabulary is copied from another Gemma 3 file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

TYPE, VOCABULARY, FILE = Type[sys.argv[1].upper()], Path(sys.argv[2]), Path(sys.argv[3])
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM, BLOCKS, VOCAB = 1152, 6912, 4, 1, 256, 26, 262_144
PART = 8192  # rows made at a time

numbers = np.random.default_rng(0)
reader = gguf.GGUFReader(VOCABULARY)
writer = gguf.GGUFWriter(FILE, "gemma3")
writer.add_context_length(32_768)
writer.add_embedding_length(HIDDEN)
writer.add_feed_forward_length(FEED_FORWARD)
writer.add_block_count(BLOCKS)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV_HEADS)
writer.add_key_length(HEAD_DIM)
writer.add_value_length(HEAD_DIM)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_rope_freq_base(1e6)
writer.add_sliding_window(512)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if TYPE == Type.Q8_0 else gguf.LlamaFileType.MOSTLY_Q4_0)
writer.add_tokenizer_model("llama")
for key, field in reader.fields.items():
    if not key.startswith("tokenizer.ggml.") or key == "tokenizer.ggml.model":
        continue
    if field.types[0] == gguf.GGUFValueType.ARRAY:
        writer.add_array(key, field.contents())
    else:
        writer.add_key_value(key, field.contents(), field.types[0])


def matrix(name: str, rows: int, columns: int) -> None:
    """Add a matrix of normally distributed weights, whose products have the magnitude of their inputs."""
    parts = []
    for start in range(0, rows, PART):
        shape = (min(PART, rows - start), columns)
        parts.append(gguf.quantize(numbers.standard_normal(shape, np.float32) / np.float32(columns**0.5), TYPE))
    writer.add_tensor(f"{name}.weight", np.concatenate(parts), raw_dtype=TYPE)


def norm(name: str, width: int) -> None:
    """Add the weights of a norm."""
    writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))


matrix("token_embd", VOCAB, HIDDEN)
norm("output_norm", HIDDEN)
for block in range(BLOCKS):
    for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        norm(f"blk.{block}.{name}", HIDDEN)
    for name in ("attn_q_norm", "attn_k_norm"):
        norm(f"blk.{block}.{name}", HEAD_DIM)
    matrix(f"blk.{block}.attn_q", HEADS * HEAD_DIM, HIDDEN)
    matrix(f"blk.{block}.attn_k", KV_HEADS * HEAD_DIM, HIDDEN)
    matrix(f"blk.{block}.attn_v", KV_HEADS * HEAD_DIM, HIDDEN)
    matrix(f"blk.{block}.attn_output", HIDDEN, HEADS * HEAD_DIM)
    matrix(f"blk.{block}.ffn_gate", FEED_FORWARD, HIDDEN)
    matrix(f"blk.{block}.ffn_up", FEED_FORWARD, HIDDEN)
    matrix(f"blk.{block}.ffn_down", HIDDEN, FEED_FORWARD)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
