"""The strip that shows where time goes: of scripted calls, and without a server that tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .actions import ask
from .scripted import Script

if TYPE_CHECKING:
    from .conftest import Open

pytest.importorskip("playwright")

PARTS = "embedding qkv attention attention_out gate_up down norms head head_screen head_rescore other choosing".split()
HELLO = {
    "model": "scripted-model",
    "threads": 2,
    "max_batch_size": 8,
    "parts": [*PARTS, "python", "waiting"],
    "limits": {"read_gb_s": 20.0, "int8_gop_s": 300.0, "f32_gflop_s": 120.0},
}
KV = {"running_bytes": 3_500_000, "prefix_bytes": 12_000_000, "limit_bytes": 2_000_000_000}


def call(number: int, phase: str = "decode") -> dict[str, Any]:
    """One call of the model."""
    shares = {"qkv": 2, "attention": 3 + number % 3, "attention_out": 1, "gate_up": 5, "down": 3, "head_screen": 2}
    parts = [{"name": name, "ms": float(ms), "gb_s": 15.0, "gop_s": 60.0} for name, ms in shares.items()]
    parts += [{"name": name, "ms": 0.7, "gb_s": None, "gop_s": None} for name in ("choosing", "python", "waiting")]
    text = {"choice": 0, "prompt_tokens": 0, "tokens": 4, "generated": 40 + number, "drafted": 4, "accepted": 3}
    own = {
        **text,
        "id": "req_own",
        "sequence": 17,
        "phase": "decode",
        "prompt_done": 120,
        "prompt_total": 120,
        "reused": 64,
    }
    other = {
        **text,
        "id": None,
        "sequence": 18,
        "phase": "prefill",
        "prompt_done": 128,
        "prompt_total": 900,
        "reused": 0,
    }
    return {
        "at": 1764530000.0 + number / 5, "phase": phase, "ms": sum(part["ms"] for part in parts),
        "runs": 4, "tokens": 8, "prompt_tokens": 0, "drafted": 4, "accepted": 3, "running": 2, "waiting": 1,
        "parts": parts, "texts": [own, other], "kv": KV,
        "queue": [{"id": None, "choice": 0, "sequence": 19, "prompt_total": 300, "ms": 1300.0}],
    }  # fmt: skip


def test_calls_are_shown(scripted: str, script: Script, open_page: Open) -> None:
    calls = [("run", call(number, "prefill" if number % 4 == 0 else "decode")) for number in range(80)]
    script.live = [("hello", HELLO), *calls]
    page = open_page(scripted)
    ask(page, "Hi")  # its request is the one of the first text
    assert page.get_by_role("region", name="Where time goes").count() == 0
    page.keyboard.press("Alt+i")
    page.get_by_text("119 tokens").wait_for()  # of the last call
    assert page.locator(".column").count() == 60  # the oldest ones are gone
    assert page.locator(".column.prefill").count() == 15
    summary = page.locator("#strip .summary").inner_text()
    for part in ("ms for 4 runs, 8 tokens", "2 running, 1 waiting", "3.5 MB in use", "12.0 MB to reuse of 2.00 GB"):
        assert part in summary
    rows = page.locator("#strip tbody tr").all_inner_texts()
    names = [row.split("\t")[0].strip() for row in rows]
    assert names == [
        "qkv",
        "attention",
        "attention out",
        "gate up",
        "down",
        "head screen",
        "choosing",
        "python",
        "waiting",
    ]
    shares = [int(row.split("\t")[1].split()[0]) for row in rows]
    assert 97 <= sum(shares) <= 103
    assert page.locator(".lanes li").count() == 3
    lanes = [" ".join(row.locator("span").all_inner_texts()) for row in page.locator(".lanes li").all()]
    assert lanes[0].startswith("this page")
    assert lanes[0].endswith("tokens, 3 of 4 drafted")
    assert lanes[1:] == ["text 18 prompt 128 of 900", "text 19 waits 1.3 s, prompt 300"]
    page.keyboard.press("Alt+i")
    assert page.locator("#strip").is_hidden()


def test_an_idle_server(scripted: str, script: Script, open_page: Open) -> None:
    script.live = [
        ("hello", {**HELLO, "limits": None}),
        ("run", call(1)),
        ("idle", {"running": 0, "waiting": 0, "kv": KV}),
    ]
    page = open_page(scripted)
    page.click("#show-strip")
    page.get_by_text("idle · 0 running, 0 waiting").wait_for()
    assert page.locator(".lanes li").count() == 0


def test_a_server_that_does_not_tell(scripted: str, open_page: Open) -> None:
    page = open_page(scripted, expected=("404",))
    page.click("#show-strip")
    page.get_by_text("--live-trace").wait_for()
