"""Targets of whole model files: tiny models as GGUF files and as Hugging Face folders, with random edits."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import writers

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp.formats.gguf import GGUFFile
from tests.fuzz.changes import change, noisy, odd
from tests.helpers import quantised_folders, tiny_files, tiny_models

BLOCKS = (
    *("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    *("iq4_nl", "iq4_xs", "mxfp4"),
)
RANGES = {"u8": 8, "i8": -8, "u16": 16, "i16": -16, "u32": 32, "i32": -32, "u64": 64, "i64": -64}
EXTRA = (
    "attention.key_length attention.value_length attention.sliding_window "
    "attention.sliding_window_pattern attention.scale "
    "rope.freq_base rope.freq_base_swa rope.dimension_count rope.scaling.type rope.scaling.factor rope.scale_linear "
    "rope.scaling.original_context_length rope.scaling.yarn_beta_fast attn_logit_softcapping final_logit_softcapping "
    "expert_count expert_used_count vocab_size context_length block_count attention.head_count attention.head_count_kv"
).split()
TOKENIZER = (
    "model pre tokens scores token_type merges bos_token_id eos_token_id eot_token_id unknown_token_id "
    "padding_token_id "
    "mask_token_id add_bos_token add_eos_token add_space_prefix remove_extra_whitespaces precompiled_charsmap"
).split()
TEXTS = [
    "",
    "a",
    "llama",
    "gpt2",
    "gemma3",
    "qwen2",
    "falcon",
    "default",
    "llama-bpe",
    "yarn",
    "linear",
    "\0",
    "<0x41>",
    "<0xZZ>",
    "▁",
    "{{ messages }}",
    "é",
    "🧿",
    "<|im_end|>",
    "x" * 3000,
]


def use(lm: pyml_nlp.LanguageModel) -> None:
    """Run a model as a user would: logits, a text, tokens there and back, a chat."""
    with lm:
        ids = [1 % lm.vocab_size, 2 % lm.vocab_size]
        lm.logits(ids)
        lm.generate_text(ids, max_tokens=3, temperature=0.7, seed=1)
        lm.tokenizer.decode(lm.tokenizer.encode("the Cat 12 é\n"))
        with contextlib.suppress(PymlError):  # most of them have no template
            lm.chat_ids("hi")


class GGUFModels:
    """GGUF files of every architecture and block type, changed in metadata, tensors and bytes."""

    name = "gguf"

    def prepare(self, folder: Path) -> None:
        """Write the models and keep them in pieces."""
        self._path = folder / "case.gguf"
        self._seeds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        for name, model in tiny_models.MODELS.items():
            if model.gguf:
                self._take(name, tiny_files.write_gguf(model, self._path, "f32"))
        for dtype in BLOCKS:
            self._take(dtype, tiny_files.write_gguf(tiny_models.QUANTIZED, self._path, dtype))

    def _take(self, name: str, path: Path) -> None:
        raw = path.read_bytes()
        with GGUFFile(path) as file:
            metadata = {key: _typed(value) for key, value in file.metadata.items()}
            tensors = {
                key: (info.dtype, tuple(info.shape), raw[info.offset : info.offset + info.nbytes])
                for key, info in file.tensors.items()
            }
        self._seeds[name] = (metadata, tensors)

    def make(self, rng: random.Random) -> Any:
        """The name of a model and edits."""
        seed = rng.choice(sorted(self._seeds))
        metadata, tensors = self._seeds[seed]
        architecture = metadata["general.architecture"][1]
        edits: list[Any] = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            how = rng.randrange(7)
            if how <= 2:
                keys = [
                    *metadata,
                    *(f"{architecture}.{key}" for key in EXTRA),
                    *(f"tokenizer.ggml.{key}" for key in TOKENIZER),
                ]
                key = rng.choice(keys)
                kind, value = (
                    self._value(rng, *metadata[key]) if key in metadata and rng.random() < 0.7 else self._any(rng)
                )
                edits.append(["set", key, kind, value])
            elif how == 3:
                edits.append(["drop", rng.choice([*metadata, *tensors])])
            elif how == 4:
                name = rng.choice(sorted(tensors))
                shape = [max(0, size + rng.choice([-1, 0, 0, 1])) for size in tensors[name][1]]
                edits.append(["shape", name, rng.choice([shape, shape[::-1], [*shape, 1], [], [2**40, 2**40]])])
            elif how == 5:
                edits.append(["rename", rng.choice(sorted(tensors)), rng.choice([*sorted(tensors), "x", "", "\0"])])
            else:
                edits.append(
                    ["bytes", rng.random(), rng.choice(["00", "ff", "0000c07f", "007c", "00fc", "ffffffffffffffff"])]
                )
        return [seed, edits]

    @staticmethod
    def _any(rng: random.Random) -> tuple[str, Any]:
        kind = rng.choice(
            ["u32", "u32", "f32", "f32", "str", "str", "bool", "[i32", "[str", "[f32", "i64", "u64", "f64", "u8"]
        )
        makers: dict[str, Callable[[], Any]] = {"str": lambda: rng.choice(TEXTS), "bool": lambda: rng.randrange(2)}
        one = makers.get(kind.removeprefix("["), lambda: _number(rng, kind.removeprefix("["), 3))
        return kind, [one() for _ in range(rng.choice([0, 1, 2, 40]))] if kind[0] == "[" else one()

    def _value(self, rng: random.Random, kind: str, value: Any) -> tuple[str, Any]:
        if kind[0] != "[":
            if kind == "str":
                at = rng.randrange(len(value) + 1)
                return kind, rng.choice([rng.choice(TEXTS), value[:at] + rng.choice(TEXTS) + value[at:]])
            return kind, 1 - value if kind == "bool" else _number(rng, kind, value)
        values = list(value)
        how = rng.randrange(4)
        if how == 0:
            return kind, values[: rng.randrange(len(values) + 1)]
        if how == 1:
            return kind, values + values[:40]
        for _ in range(rng.choice([1, 3, 50])):
            if values:
                at = rng.randrange(len(values))
                values[at] = self._value(rng, kind[1:], values[at])[1]
        return kind, values

    def run(self, given: Any) -> int:
        """Write the file with its edits, load it and use it."""
        seed, edits = given
        metadata, tensors = (dict(part) for part in self._seeds[seed])
        patches = []
        for how, key, *rest in edits:
            if how == "set":
                metadata[key] = (rest[0], rest[1])
            elif how == "drop":
                metadata.pop(key, None)
                tensors.pop(key, None)
            elif how == "shape" and key in tensors:
                dtype, _, data = tensors[key]
                tensors[key] = (dtype, tuple(rest[0]), data)
            elif how == "rename" and key in tensors:
                tensors[rest[0]] = tensors.pop(key)
            elif how == "bytes":
                patches.append((key, bytes.fromhex(rest[0])))
        alignment = metadata.get("general.alignment", ("u32", 32))
        if alignment[0] != "u32" or not 0 < alignment[1] < 1 << 20:
            metadata["general.alignment"] = ("u32", 32)  # the writer needs one
        content = writers.join(writers.gguf(metadata, tensors))
        for place, new in patches:
            at = int(place * len(content))
            content = content[:at] + new + content[at + len(new) :]
        self._path.unlink(missing_ok=True)
        self._path.write_bytes(content)
        use(pyml_nlp.load(self._path, threads=1))
        return len(content)


def _typed(value: Any) -> tuple[str, Any]:
    """Metadata as the writer takes it."""
    if isinstance(value, bool):
        return "bool", int(value)
    if isinstance(value, str):
        return "str", value
    if isinstance(value, int):
        return ("u32" if 0 <= value < 2**32 else "i64"), value
    if isinstance(value, float):
        return "f32", value
    if isinstance(value, list):
        return "[str", value
    array = np.asarray(value)
    return ("[f32" if array.dtype.kind == "f" else "[bool" if array.dtype == bool else "[i32"), array.tolist()


def _number(rng: random.Random, kind: str, old: Any) -> Any:
    if kind in ("f32", "f64"):
        return rng.choice(
            [0.0, -1.0, 1e-45, 1e-6, 0.5, 10.0, 1e6, 3e38, float("inf"), float("nan"), float(old) * 2, -float(old)]
        )
    bits = RANGES.get(kind, 32)
    low, high = (-(2 ** (-bits - 1)), 2 ** (-bits - 1) - 1) if bits < 0 else (0, 2**bits - 1)
    found = rng.choice([old + 1, old - 1, old * 2, old // 2, 0, 1, 2, 3, 64, 255, 1000, 2**16, 2**20, 2**31, high, low])
    return min(max(int(found), low), high)


JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json")
QUANTISED = ("mlx-4-64", "mlx-mxfp4", "w4a16-zeros", "int8", "ct-nvfp4", "gptq-4", "gptq-order", "awq", "fp8-blocks")
CONFIG_KEYS = (
    "rope_theta rope_scaling rope_parameters partial_rotary_factor sliding_window layer_types head_dim "
    "hidden_act attention_bias "
    "final_logit_softcapping query_pre_attn_scalar tie_word_embeddings num_key_value_heads num_attention_heads "
    "vocab_size "
    "num_local_experts num_experts_per_tok original_max_position_embeddings max_position_embeddings "
    "n_inner text_config "
    "quantization_config eos_token_id bos_token_id num_hidden_layers n_layer hidden_size intermediate_size model_type"
).split()
SCALINGS: list[Any] = [
    {"type": "linear", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
]
REGEXES = [
    r"\p{L}+",
    r"\s+(?!\S)|\s+",
    r"(a+)+$",
    "",
    r".",
    r".*",
    r"\b",
    r"^",
    r"[a-",
    r"\x{110000}",
    r"[[:alpha:]]+",
    r"a{64}",
    r"(|a)",
    r"(?:a{0,21}){0,3}b",
    r"(?=a)",
    r"(?:ab|a)*",
]
PARTS: dict[str, list[Any]] = {
    "normalizer": [
        {"type": "NFC"},
        {"type": "Lowercase"},
        {"type": "Prepend", "prepend": "▁"},
        {"type": "ByteLevel"},
        {"type": "Nmt"},
        {"type": "Replace", "pattern": {"Regex": "a"}, "content": ""},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
    "pre_tokenizer": [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        {"type": "Whitespace"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "BertPreTokenizer"},
        {"type": "Digits", "individual_digits": True},
        {"type": "CharDelimiterSplit", "delimiter": "x"},
    ],
    "decoder": [
        {"type": "ByteLevel"},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    ],
}


class Folders:
    """Hugging Face folders, changed in their JSON files and the header of their weights."""

    name = "folders"

    def prepare(self, folder: Path) -> None:
        """Write every tiny model once, and some that are quantised."""
        self._folder = folder / "case"
        self._seeds: dict[str, dict[str, bytes]] = {}
        for name, model in tiny_models.MODELS.items():
            written = tiny_files.write_hf(model, folder / name)
            self._seeds[name] = {path.name: path.read_bytes() for path in sorted(written.iterdir())}
        for name in QUANTISED:
            quantised_folders.write(name, folder / name)
            self._seeds[name] = {path.name: path.read_bytes() for path in sorted((folder / name).iterdir())}

    def make(self, rng: random.Random) -> Any:
        """The name of a model and whole files that take the place of its own, as text."""
        seed = rng.choice(sorted(self._seeds))
        files = self._seeds[seed]
        changed: dict[str, str] = {}
        for _ in range(rng.choice([1, 1, 1, 2])):
            present = [name for name in files if name in JSON_FILES]
            name = rng.choice([*present, *present, "generation_config.json", "model.safetensors"])
            if name == "model.safetensors":
                raw = files.get(name, bytes(8))
                header: Any = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")] or b"{}")
                change(rng, header)
                changed[name] = json.dumps(header)
                continue
            if name in changed:
                continue
            tree = json.loads(files.get(name, b"{}"))
            self._edit(rng, name, tree)
            text = json.dumps(tree)
            changed[name] = noisy(rng, text) if rng.random() < 0.05 else text
        return [seed, changed]

    @staticmethod
    def _edit(rng: random.Random, name: str, tree: Any) -> None:
        if not isinstance(tree, dict):
            return
        if name == "config.json" and rng.random() < 0.6:
            inner = tree.get("text_config")
            where = inner if isinstance(inner, dict) else tree
            key = rng.choice(CONFIG_KEYS)
            where[key] = copy.deepcopy(rng.choice(SCALINGS)) if "rope_" in key and rng.random() < 0.6 else odd(rng)
        elif name == "tokenizer.json" and rng.random() < 0.6:
            part = rng.choice(list(PARTS))
            pieces = [copy.deepcopy(rng.choice(PARTS[part])) for _ in range(rng.choice([1, 2, 3]))]
            if part == "pre_tokenizer" and rng.random() < 0.5:
                pattern = {"Regex": rng.choice(REGEXES)}
                pieces.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
            inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}[part]
            tree[part] = pieces[0] if len(pieces) == 1 else {"type": "Sequence", inner: pieces}
        else:
            change(rng, tree)

    def run(self, given: Any) -> int:
        """Write the folder, load it and use it."""
        seed, changed = given
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        size = 0
        for name, raw in (self._seeds[seed] | {name: b"" for name in changed if name not in self._seeds[seed]}).items():
            content = raw
            if name in changed:
                text = changed[name].encode("utf-8", "surrogatepass")
                content = text
                if name == "model.safetensors":
                    content = len(text).to_bytes(8, "little") + text + raw[8 + int.from_bytes(raw[:8], "little") :]
            (self._folder / name).write_bytes(content)
            size += len(content)
        use(pyml_nlp.load(self._folder, threads=1))
        return size
