"""Write a GGUF file of a real model's shape with random blocks, in pieces: no tensor is in memory as a whole.

    python random_shape.py SHAPE LAYERS FILE.gguf

For speed only. SHAPE is one of :data:`shapes.SHAPES`, LAYERS how many of its layers are written. The vocabulary is made
up (single bytes and numbered fillers), of the real size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from shapes import SHAPES, Shape

POOL = 1 << 14
"""Random blocks of one type that tensors are pieced together from: 2 to 4 MB, more than the caches of a core hold."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; ``shape`` has the length of a row last."""

    name: str
    shape: tuple[int, ...]
    type: Type

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        size, stored = gguf.GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // size * stored


def is_finer(layer: int, layers: int) -> bool:
    """Whether Q4_K_M has a layer's values and down projections in Q6_K: the first and last eighth, every third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensors(shape: Shape, layers: int) -> Iterator[Tensor]:
    """The tensors of a file, in its order."""
    coarse, fine = Type.Q4_K, Type.Q6_K if shape.mixed else Type.Q4_K
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Tensor("token_embd.weight", (shape.vocabulary, hidden), coarse)
    yield Tensor("output_norm.weight", (hidden,), Type.F32)
    yield Tensor("output.weight", (shape.vocabulary, hidden), fine)
    for layer in range(layers):
        finer = fine if is_finer(layer, layers) else coarse
        prefix = f"blk.{layer}."
        yield Tensor(prefix + "attn_norm.weight", (hidden,), Type.F32)
        yield Tensor(prefix + "ffn_norm.weight", (hidden,), Type.F32)
        yield Tensor(prefix + "attn_q.weight", (queries, hidden), coarse)
        yield Tensor(prefix + "attn_k.weight", (keys, hidden), coarse)
        yield Tensor(prefix + "attn_v.weight", (keys, hidden), finer)
        yield Tensor(prefix + "attn_output.weight", (hidden, queries), coarse)
        which, each = ("_exps", (shape.experts,)) if shape.experts else ("", ())
        if shape.experts:
            yield Tensor(prefix + "ffn_gate_inp.weight", (shape.experts, hidden), Type.F32)
        yield Tensor(f"{prefix}ffn_gate{which}.weight", (*each, shape.feed_forward, hidden), coarse)
        yield Tensor(f"{prefix}ffn_up{which}.weight", (*each, shape.feed_forward, hidden), coarse)
        yield Tensor(f"{prefix}ffn_down{which}.weight", (*each, hidden, shape.feed_forward), finer)


def pool_of(kind: Type, columns: int, numbers: np.random.Generator) -> Bytes:
    """Random blocks (POOL, bytes), whose weights have a mean of 0 and a deviation of about 1 / sqrt(columns)."""
    blocks = numbers.integers(0, 256, (POOL, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    if kind == Type.Q4_K:  # d * scale * q - dmin * minimum: 6 bits of scale and minimum, 4 of q
        scale = columns**-0.5 / 255
        blocks[:, :4] = np.array([scale, 7.5 * scale], np.float16).view(np.uint8)
    else:  # Q6_K: d * scale * (q - 32), 8 bits of scale with their sign, 6 of q
        blocks[:, -2:] = np.array([columns**-0.5 / 1370], np.float16).view(np.uint8)
    return blocks


def pieces(tensor: Tensor, pools: dict[tuple[Type, int], Bytes], numbers: np.random.Generator) -> Iterator[Bytes]:
    """The bytes of a tensor, at most a pool's at a time, each piece beginning at another block of the pool."""
    columns = tensor.shape[-1]
    if tensor.type == Type.F32:
        values = np.ones(tensor.shape, np.float32)
        if len(tensor.shape) > 1:
            values = numbers.standard_normal(tensor.shape, np.float32) / np.float32(columns**0.5)
        yield values.view(np.uint8).reshape(-1)
        return
    key = (tensor.type, columns)
    if key not in pools:
        pools[key] = pool_of(*key, numbers)
    pool = pools[key]
    left = tensor.nbytes // pool.shape[1]
    while left:
        start = int(numbers.integers(0, POOL // 2))
        part = pool[start : start + min(left, POOL - start)]
        yield part.reshape(-1)
        left -= len(part)


def letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = len(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]


def write_metadata(writer: gguf.GGUFWriter, shape: Shape, layers: int) -> None:
    """Everything but the tensors."""
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.chosen)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M if shape.mixed else gguf.LlamaFileType.MOSTLY_Q4_K_S)
    known = letters()
    tokens = [*known, known[0] + known[1]]  # the one merge makes the last
    tokens += [f"<filler {i}>" for i in range(shape.vocabulary - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges([f"{known[0]} {known[1]}"])
    writer.add_eos_token_id(len(tokens) - 1)


def write(shape: Shape, layers: int, path: Path, seed: int = 0) -> None:
    """Write the file."""
    numbers = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, shape, layers)
    wanted = list(tensors(shape, layers))
    for tensor in wanted:
        raw = None if tensor.type == Type.F32 else tensor.type
        stored = np.dtype(np.float32 if raw is None else np.uint8)
        size, of_block = gguf.GGML_QUANT_SIZES[tensor.type]
        last = tensor.shape[-1] if raw is None else tensor.shape[-1] // size * of_block  # in bytes
        writer.add_tensor_info(tensor.name, (*tensor.shape[:-1], last), stored, tensor.nbytes, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pools: dict[tuple[Type, int], Bytes] = {}
    if writer.fout is None:
        raise RuntimeError("the writer has opened no file")
    (out,) = writer.fout
    for tensor in wanted:
        writer.write_padding(out, out.tell())
        for piece in pieces(tensor, pools, numbers):
            out.write(piece.data)
    writer.write_padding(out, out.tell())
    writer.close()


if __name__ == "__main__":
    write(SHAPES[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3]))
