"""tokenizer.json of a Hugging Face folder, run by the ``tokenizers`` library.

The file is parsed and checked here, and the library's object is built from the checked parts: that is also faster
than to let the library read the file (Gemma's: 0.8 s in place of 1.1 s). tokenizer.model, which some folders have too
and which would load in a tenth of that, is not used in its place: to prove that both give the same ids takes reading
tokenizer.json, and tokens that somebody added to a model are often in the latter alone.

Beginning and end of a text are ids that :meth:`Tokenizer.encode` puts there itself. The file's post-processor says
which; ``add_bos_token`` and ``add_eos_token`` of tokenizer_config.json are not read, as in transformers 5.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyml_core.errors import quoted

from ..errors import ModelFileError
from ..formats.config import read_json
from .added import add_tokens, own_texts
from .base import MAX_TOKENS, Facts
from .config_files import ConfigFiles, parse_added_token
from .json_decoder import around, decoder
from .json_encoder import before_model
from .json_parts import listed, parts, section
from .library import LibraryTokenizer, build_bpe, check_vocab, guarded, split_merges
from .model_proto import check_pieces

if TYPE_CHECKING:
    import tokenizers

LIMIT = 200 << 20
"""Bytes that a tokenizer.json may have: six times the largest one known."""


def load_tokenizer_json(folder: Path) -> LibraryTokenizer:
    """The tokenizer of a folder with a tokenizer.json.

    Raises:
        ModelFileError: the file or one beside it is malformed, or has parts that pyml does not know; it names them.
    """
    path = folder / "tokenizer.json"
    what = str(path)
    config = ConfigFiles(folder)
    document = read_json(path, LIMIT)
    added = [parse_added_token(entry, what) for entry in listed({"added_tokens": [], **document}, "added_tokens", what)]
    if len(added) > MAX_TOKENS:
        raise ModelFileError(f"{what}: added_tokens: expected at most {MAX_TOKENS}, got {len(added)}")
    # As transformers adds them: what the config says of a token that is there already, is what counts.
    added += config.added_tokens({token.text for token in added})
    make_decoding, piece_bytes = decoder(document, what)
    model, vocab = _model(section(document, "model", what), what)
    with guarded(what):
        engine = before_model(document, what)
        engine.model = model
        add_tokens(engine, added, config.special_tokens(), what)
        known = engine.get_added_tokens_decoder()
    in_bytes = any(step.get("type") == "ByteLevel" for step in parts(document, "decoder", what))
    texts = own_texts(known, vocab) if in_bytes else {}
    vocab |= {token.content: number for number, token in known.items()}
    prefix, suffix = around(document, vocab, what)
    facts = Facts(
        kind="tokenizer.json",
        vocab_size=max(vocab.values()) + 1,
        bos_id=config.bos_id(vocab),
        eos_ids=config.eos_ids(vocab),
        special_ids=[number for number, token in known.items() if token.special],
        prefix=prefix,
        suffix=suffix,
        named_tokens=config.named_tokens(),
        chat_templates=config.chat_templates(),
    )
    source = json.dumps(document.get("decoder"))
    return LibraryTokenizer(facts, engine, make_decoding, piece_bytes, texts, source)


def _model(model: dict[str, Any], what: str) -> tuple[tokenizers.models.Model, dict[str, int]]:
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind == "BPE":
        return _bpe(model, what)
    if kind == "Unigram":
        return _unigram(model, what)
    raise ModelFileError(f"{what}: model: expected type BPE or Unigram, got {quoted(kind)}")


def _bpe(model: dict[str, Any], what: str) -> tuple[tokenizers.models.Model, dict[str, int]]:
    vocab = section(model, "vocab", what)
    check_vocab(vocab, what)
    merges = split_merges(listed(model, "merges", what), what)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ModelFileError(f"{what}: model: {name}: expected none, got {quoted(model[name])}")
    unknown_token = model.get("unk_token")
    if unknown_token is not None and (not isinstance(unknown_token, str) or unknown_token not in vocab):
        raise ModelFileError(f"{what}: model: unk_token {quoted(unknown_token)} is not in the vocabulary")
    flags = {name: _flag(model, name, what) for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
    return build_bpe(vocab, merges, what, unk_token=unknown_token, **flags), vocab


def _unigram(model: dict[str, Any], what: str) -> tuple[tokenizers.models.Model, dict[str, int]]:
    from tokenizers import models

    pieces: list[tuple[str, float]] = []
    for number, entry in enumerate(listed(model, "vocab", what)):
        match entry:
            case [str(text), int() | float() as score] if not isinstance(score, bool) and math.isfinite(score):
                pieces.append((text, float(score)))
            case _:
                raise ModelFileError(f"{what}: token {number}: expected a text and a finite score, got {quoted(entry)}")
    vocab = {text: number for number, (text, _) in enumerate(pieces)}
    check_vocab(vocab, what)
    check_pieces(vocab, what)
    if len(vocab) != len(pieces):
        raise ModelFileError(f"{what}: expected each token once, got {len(pieces) - len(vocab)} again")
    unknown_id = model.get("unk_id")
    if unknown_id is not None and (type(unknown_id) is not int or not 0 <= unknown_id < len(pieces)):
        raise ModelFileError(f"{what}: model: unk_id: expected 0 to {len(pieces) - 1}, got {quoted(unknown_id)}")
    with guarded(what):
        return models.Unigram(pieces, unknown_id, _flag(model, "byte_fallback", what)), vocab


def _flag(model: dict[str, Any], name: str, what: str) -> bool:
    value = model.get(name, False)
    if not isinstance(value, bool):
        raise ModelFileError(f"{what}: model: {name}: expected true or false, got {quoted(value)}")
    return value
