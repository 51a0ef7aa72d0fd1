"""Make GPT-2 124M with random weights: a GGUF file with Q8_0 matrices, and a Hugging Face folder with these weights.

    python random_gpt2.py FILE.gguf FOLDER

For speed only. The vocabulary is artificial (single bytes and numbered fillers), and has the real size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type

FILE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
NAMES = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = len(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]


def gguf_name(name: str) -> str:
    """The GGUF name of a transformers name such as ``transformer.h.3.attn.c_proj.weight``."""
    name = name.removeprefix("transformer.")
    prefix = ""
    if name.startswith("h."):
        _, block, name = name.split(".", 2)
        prefix = f"blk.{block}."
    for theirs, ours in NAMES.items():
        if name == theirs or name.startswith(theirs + "."):
            return prefix + ours + name[len(theirs) :]
    raise KeyError(name)


torch.manual_seed(0)
config = transformers.GPT2Config()
model = transformers.GPT2LMHeadModel(config)
model.save_pretrained(FOLDER)

letters = byte_letters()
known = [*letters, letters[0] + letters[1]]  # the last one is made by the only merge
tokens = known + [f"<filler {i}>" for i in range(config.vocab_size - len(known) - 1)] + ["<|endoftext|>"]
merges = [f"{letters[0]} {letters[1]}"]
(FOLDER / "vocab.json").write_text(json.dumps({text: number for number, text in enumerate(tokens)}))
(FOLDER / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
writer = gguf.GGUFWriter(FILE, "gpt2")
writer.add_context_length(config.n_positions)
writer.add_embedding_length(config.n_embd)
writer.add_feed_forward_length(4 * config.n_embd)
writer.add_block_count(config.n_layer)
writer.add_head_count(config.n_head)
writer.add_layer_norm_eps(config.layer_norm_epsilon)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(tokens)
writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
writer.add_token_merges(merges)
writer.add_bos_token_id(len(tokens) - 1)
writer.add_eos_token_id(len(tokens) - 1)
for name, tensor in model.state_dict().items():
    if name == "lm_head.weight":
        continue  # tied to the embedding
    array = tensor.numpy()
    if ".c_" in name and array.ndim == 2:
        array = np.ascontiguousarray(array.T)  # Conv1D keeps (inputs, outputs)
    if array.ndim == 2 and "wpe" not in name:
        writer.add_tensor(gguf_name(name), gguf.quantize(array, Type.Q8_0), raw_dtype=Type.Q8_0)
    else:
        writer.add_tensor(gguf_name(name), array)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
