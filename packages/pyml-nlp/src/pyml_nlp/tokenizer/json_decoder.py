"""The output parts of a tokenizer.json: the ids around a text, and the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import byte_level, decoding
from .json_parts import listed, parts, pattern_of, section, unknown

MakeDecoding = Callable[[Callable[[int], str]], decoding.Decoding]

_PROCESSORS = ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing")
_DECODERS = ("ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece")
_MAX_CONTENT = 64  # maximum number of characters that a decoder may write for a match


def prefix_and_suffix(
    document: dict[str, Any], vocab: Mapping[str, int], label: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the file's post-processor puts before and after a text.

    Raises:
        ModelFileError: the post-processor is malformed, has an unknown type, or has ids outside the vocabulary.
    """
    before: list[Any] = []
    after: list[Any] = []
    for part in parts(document, "post_processor", label):
        kind = part.get("type")
        if kind == "TemplateProcessing":
            left, right = _template(part, f"{label}: post_processor")
            before, after = left + before, after + right
        elif kind in ("BertProcessing", "RobertaProcessing"):
            before = [_pair_id(part, "cls", label), *before]
            after.append(_pair_id(part, "sep", label))
        elif kind != "ByteLevel":
            raise unknown("post_processor", kind, _PROCESSORS, label)
    known = set(vocab.values())
    for number in (*before, *after):
        if type(number) is not int or number not in known:
            raise ModelFileError(f"{label}: post_processor: expected an id of the vocabulary, got {quoted(number)}")
    return tuple(before), tuple(after)


def _template(part: dict[str, Any], label: str) -> tuple[list[Any], list[Any]]:
    before: list[Any] = []
    after: list[Any] = []
    texts = 0
    specials = section(part, "special_tokens", label)
    for entry in listed(part, "single", label):
        match entry:
            case {"Sequence": {"id": "A"}}:
                texts += 1
            case {"SpecialToken": {"id": str(name)}}:
                ids = listed(section(specials, name, f"{label}: special_tokens"), "ids", label)
                (after if texts else before).extend(ids)
            case _:
                raise ModelFileError(f"{label}: expected SpecialToken or Sequence A, got {quoted(entry)}")
    if texts != 1:
        raise ModelFileError(f"{label}: expected the text once, got it {texts} times")
    return before, after


def _pair_id(part: dict[str, Any], name: str, label: str) -> Any:
    pair = listed(part, name, f"{label}: post_processor")
    return pair[1] if len(pair) == 2 else None


def decoder(document: dict[str, Any], label: str) -> tuple[MakeDecoding | None, Callable[[str], bytes]]:
    """Return a maker of decodings (None: byte-level), and a function from a token's text to its bytes.

    Raises:
        ModelFileError: a part is malformed or has an unknown type.
    """
    steps = parts(document, "decoder", label)
    if [step.get("type") for step in steps] == ["ByteLevel"]:
        return None, byte_level.to_bytes
    makers: list[Callable[[], decoding.Stage]] = []
    replacements: list[tuple[str, str]] = []
    fused = False
    for step in steps:
        maker = _stage(step, fused, replacements, label)
        fused = fused or maker().fuses
        makers.append(maker)
    if not steps:
        makers.append(decoding.SpaceBetween)
    has_bytes = any(step.get("type") == "ByteFallback" for step in steps)
    to_bytes = byte_level.to_bytes if any(step.get("type") == "ByteLevel" for step in steps) else str.encode

    def make(piece: Callable[[int], str]) -> decoding.Decoding:
        return decoding.ChainDecoding(piece, [maker() for maker in makers])

    def piece_bytes(piece: str) -> bytes:
        byte = decoding.byte_of(piece) if has_bytes else None
        for old, new in replacements:
            piece = piece.replace(old, new)
        return to_bytes(piece) if byte is None else bytes([byte])

    return make, piece_bytes


def _stage(
    step: dict[str, Any], fused: bool, replacements: list[tuple[str, str]], label: str
) -> Callable[[], decoding.Stage]:
    kind = step.get("type")
    where = f"{label}: decoder: {kind}"
    if kind not in _DECODERS:
        raise unknown("decoder", kind, _DECODERS, label)
    if kind == "Fuse":
        return decoding.Fuse
    if kind == "Strip":
        match step:
            case {"content": str(character), "start": int(start), "stop": 0} if (
                len(character) == 1 and 0 <= start <= _MAX_CONTENT
            ):
                return lambda: decoding.StripStart(character, start, fused)
        raise ModelFileError(f"{where}: expected one character, a start and a stop of 0, got {quoted(step)}")
    if fused:
        raise ModelFileError(f"{where}: expected only Strip once the tokens are one text")
    if kind == "ByteFallback":
        return decoding.ByteFallback
    if kind == "ByteLevel":
        return lambda: decoding.ByteLevel(byte_level.to_bytes)
    if kind == "Replace":
        old, new = pattern_of(step, "decoder", label), step.get("content")
        if not isinstance(old, str) or not isinstance(new, str) or len(new) > _MAX_CONTENT:
            raise ModelFileError(f"{where}: expected a plain text and a short one in its place, got {quoted(step)}")
        replacements.append((old, new))
        return lambda: decoding.Replace(old, new)
    if kind == "WordPiece":
        prefix, cleanup = step.get("prefix"), step.get("cleanup")
        if not isinstance(prefix, str) or not 0 < len(prefix) <= _MAX_CONTENT or not isinstance(cleanup, bool):
            raise ModelFileError(f"{where}: expected a prefix, and cleanup true or false, got {quoted(step)}")
        return lambda: decoding.WordPiece(prefix, cleanup)
    replacement = step.get("replacement")
    if not isinstance(replacement, str) or len(replacement) != 1:
        raise ModelFileError(f"{where}: expected one character, got {quoted(replacement)}")
    replacements.append((replacement, " "))
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    return lambda: decoding.Metaspace(replacement, drop_first=scheme != "never")
