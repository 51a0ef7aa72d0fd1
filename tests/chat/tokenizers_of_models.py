"""Small tokenizers with the control tokens of the models whose templates are tested, of the models' own kinds."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from tests.chat.cases import CONTROL, NAMED_TOKENS, TEMPLATES

_WORDS = "th he in er an re on at en is it ar st to nt me de hi us ser sys tem user"
_KIND = {"gemma3": "gemma", "mistral": "metaspace", "mistral_small": "metaspace", "phi3": "prepend"}


def _vocabulary(letters: list[str], space: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = []
    for word in [*_WORDS.split(), *(space + word for word in _WORDS.split())]:
        for end in range(2, len(word) + 1):
            if (pair := (word[: end - 1], word[end - 1])) not in merges:
                merges.append(pair)
    merges += [("\n", "\n"), (space, space)] if "\n" in letters else [("Ċ", "Ċ"), (space, space)]
    texts = dict.fromkeys([*letters, *(left + right for left, right in merges)])
    return {text: number for number, text in enumerate(texts)}, merges


def build(name: str) -> tokenizers.Tokenizer:
    """The tokenizer for a template."""
    kind = _KIND.get(name, "byte level")
    if kind == "byte level":
        vocab, merges = _vocabulary(sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġ")
        engine = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        engine.decoder = decoders.ByteLevel()
    else:
        letters = [*map(chr, range(33, 127)), "\n", "\t", "▁", "é", "ü", *(f"<0x{byte:02X}>" for byte in range(256))]
        vocab, merges = _vocabulary(["<unk>", *letters], "▁")
        engine = tokenizers.Tokenizer(
            models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )
        stages = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if kind == "metaspace":
            engine.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        elif kind == "prepend":
            engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            engine.normalizer = normalizers.Replace(" ", "▁")
        if kind != "gemma":
            stages.append(decoders.Strip(" ", 1, 0))
        engine.decoder = decoders.Sequence(stages)
    for text in [*NAMED_TOKENS[name].values(), *CONTROL[name]]:
        strips = name == "phi3" and text not in ("<s>", "<|endoftext|>")  # as Phi 3's own
        engine.add_special_tokens([AddedToken(text, normalized=False, special=True, rstrip=strips)])
    if name == "qwen3":
        engine.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>")])
    return engine


def write(name: str, folder: Path) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    build(name).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED_TOKENS[name]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    return folder
