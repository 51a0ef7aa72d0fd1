"""Parts of the commands that need no process of their own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest

from pyml_core.errors import PymlError
from pyml_nlp.cli import bench, infer, inspect, main, options
from pyml_nlp.cli.batch_file import read
from pyml_nlp.cli.interrupts import interruptible
from pyml_nlp.cli.output import Output, OutputClosed, ProgressBar


def command(action: Any) -> click.Command:
    return click.Command("fake", callback=action)


def run(monkeypatch: pytest.MonkeyPatch, action: Any) -> int:
    monkeypatch.setattr(main, "load_command", lambda name: command(action))
    return main.run("pyml-fake", [])


def raising(error: BaseException) -> Any:
    def action() -> None:
        raise error

    return action


# ---- errors and exit codes


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PymlError("model.gguf: broken"), 1, "Error: model.gguf: broken"),
        (PymlError("two\nlines"), 1, "Error: two lines"),
        (click.UsageError("bad flag"), 2, "Error: bad flag"),
        (click.NoSuchOption("--x"), 2, "Error: unexpected argument '--x' found"),
        (FileNotFoundError(2, "No such file or directory", "/x/y"), 1, "Error: /x/y: No such file or directory"),
        (OSError("strange"), 1, "Error: strange"),
        (ImportError("No module named 'x'"), 1, "Error: No module named 'x'"),
        (MemoryError(), 1, "Error: out of memory"),
        (KeyboardInterrupt(), 130, "Error: interrupted"),
        (
            ValueError("oops"),
            1,
            "Error: internal error: ValueError: oops (please report it; PYML_DEBUG=1 shows the traceback)",
        ),
    ],
)
def test_errors(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYML_DEBUG", raising=False)
    assert run(monkeypatch, raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err.strip() == line
    assert captured.out == ""


def test_the_traceback_on_demand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PYML_DEBUG", "1")
    assert run(monkeypatch, raising(ValueError("oops"))) == 1
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert text.splitlines()[-1].startswith("Error: internal error: ValueError: oops")


def test_exit_codes_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, lambda: None) == 0
    assert run(monkeypatch, lambda: 130) == 130
    assert run(monkeypatch, raising(OutputClosed())) == 0


def test_no_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert run(monkeypatch, raising(PymlError("unheard"))) == 1


def test_help_imports_little() -> None:
    code = (
        "import sys; from pyml_nlp.cli.main import run; code = run('pyml', ['infer', '--help']);"
        "heavy = {'numpy', 'pyml_core', 'pyml_nn', 'tokenizers', 'huggingface_hub', 'logging'} & set(sys.modules);"
        "sys.exit(code or repr(heavy) if heavy or code else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--repetition-penalty" in done.stdout


def test_importing_the_package_imports_nothing() -> None:
    code = "import sys, pyml_nlp; sys.exit('numpy' in sys.modules or 'pyml_core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_the_package() -> None:
    import pyml_nlp

    for name in pyml_nlp.__all__:
        assert callable(getattr(pyml_nlp, name))
    assert set(pyml_nlp.__all__) <= set(dir(pyml_nlp))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pyml_nlp.nothing  # noqa: B018
    import pyml_nlp.loading

    assert pyml_nlp.load is pyml_nlp.loading.load


# ---- options


def test_exclusive() -> None:
    options.exclusive({"--a": True, "--b": False, "--c": None})
    with pytest.raises(click.UsageError, match="the argument '--a' cannot be used with '--c'"):
        options.exclusive({"--a": True, "--b": False, "--c": 1})


def test_verbosity() -> None:
    assert [options.verbosity(v, q) for v, q in ((0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (0, 3))] == [
        0,
        1,
        2,
        2,
        -1,
        -1,
    ]
    with pytest.raises(click.UsageError):
        options.verbosity(1, 1)


def test_positive() -> None:
    options.positive({"--a": None, "--b": 0.001})
    with pytest.raises(click.UsageError, match=r"--a must be > 0\.0, got 0"):
        options.positive({"--a": 0.0})
    with pytest.raises(click.UsageError, match="--a must be > 0, got -3"):
        options.positive({"--a": -3})


def test_utf8() -> None:
    assert options.utf8("--prompt", "äöü 😀") == "äöü 😀"
    assert options.utf8("--prompt", "ü".encode().decode("ascii", "surrogateescape")) == "ü"
    with pytest.raises(click.UsageError, match="invalid value for '--prompt': expected UTF-8"):
        options.utf8("--prompt", "bad \udcff byte")


# ---- input


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_prompt_from_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(monkeypatch, " zwei\nZeilen ü\n".encode())
    assert infer._prompt(None, 0) == " zwei\nZeilen ü\n"
    assert capsys.readouterr().err == "Reading prompt from stdin...\n"
    stdin(monkeypatch, b"x")
    assert infer._prompt(None, -1) == "x"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("data", [b"", b" \n\t\n"])
def test_blank_stdin(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, data)
    with pytest.raises(click.UsageError, match=r"No prompt provided \(use --prompt or pipe text to stdin\)"):
        infer._prompt(None, -1)


def test_stdin_that_is_no_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"abc\xff")
    with pytest.raises(click.UsageError, match="stdin: expected UTF-8, got byte 0xff at offset 3"):
        infer._prompt(None, -1)


def test_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(click.UsageError, match="No prompt provided"):
        infer._prompt(None, -1)


def test_batch_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffeins \r\n\n  \nzwei\u2028zwei\nüdrei".encode())
    assert [item.prompt for item in read(str(path))] == ["eins ", "zwei\u2028zwei", "üdrei"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Batch file is empty: "),
        (b"\n \n", "Batch file is empty: "),
        (b"\xff\xfea\x00", "Failed to read batch file: .*: expected UTF-8, got UTF-16"),
        (None, "Failed to read batch file: .*: No such file or directory"),
    ],
)
def test_bad_batch_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PymlError, match=message):
        read(str(path))


def test_batch_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"Failed to read batch file: .*: Is a directory"):
        read(str(tmp_path))


def test_ctrl_c_cancels_and_the_second_one_ends() -> None:
    cancelled = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits "ignore"
    try:
        with interruptible(lambda: cancelled.append(True)) as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert (cancelled, signals) == ([True], [signal.SIGINT])
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(lambda: None) as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals == []
    finally:
        signal.signal(signal.SIGINT, before)


# ---- output


class Stdout:
    """Enough of sys.stdout, remembering each write."""

    def __init__(self, error: OSError | None = None) -> None:
        self.writes: list[bytes] = []
        self.error = error
        self.buffer = self
        self._descriptor = os.open(os.devnull, os.O_WRONLY)

    def write(self, data: bytes) -> None:
        if self.error:
            raise self.error
        self.writes.append(data)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._descriptor


def test_output_is_utf8_and_unbuffered(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Stdout()
    monkeypatch.setattr(sys, "stdout", stdout)
    output = Output()
    for text in ("é", "", "😀\n"):
        output.write(text)
    assert stdout.writes == ["é".encode(), "😀\n".encode()]


def test_a_reader_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Stdout(BrokenPipeError(32, "Broken pipe")))
    with pytest.raises(OutputClosed):
        Output().write("x")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Stdout(OSError(28, "No space left on device")))
    with pytest.raises(PymlError, match="stdout: the text cannot be written: No space left on device"):
        Output().write("x")


def test_a_closed_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(PymlError, match="stdout: it is closed"):
        Output()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar("Loading") as bar:
        for done in (0, 1, 500, 501, 1000):
            bar(done, 1000)
    shown = terminal.getvalue().split("\r")
    assert [text.removesuffix("\x1b[K")[-4:] for text in shown[1:-1]] == ["  0%", " 50%", "100%"]
    assert "[" + "#" * 15 + " " * 15 + "]" in shown[2]
    assert shown[-1] == "\x1b[K"


def test_a_progress_bar_with_a_note_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    with ProgressBar("audit") as bar:
        bar(1.5, 6.0, "loading (4 s left)")
        bar(1.5, 6.0, "a note that is much longer than the line has room for")
    first, second = (text.removesuffix("\x1b[K") for text in terminal.getvalue().split("\r")[1:3])
    assert first == "audit [" + "#" * 7 + " " * 23 + "]  25% loading (4 s le"
    assert len(second) == 59


@pytest.mark.parametrize("wanted", [True, False])
def test_no_progress_bar_off_a_terminal(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if not wanted else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar("Loading", wanted) as bar:
        bar(1, 2)
    assert stream.getvalue() == ""


# ---- bench


@pytest.mark.parametrize(
    ("test", "name"),
    [
        (bench.Test(512, 0, 0, 1), "pp512"),
        (bench.Test(0, 64, 0, 1), "tg64"),
        (bench.Test(0, 64, 2048, 1), "tg64@d2048"),
        (bench.Test(0, 64, 0, 8), "tg64@b8"),
        (bench.Test(0, 64, 2048, 8), "tg64@d2048@b8"),
    ],
)
def test_names_of_tests(test: bench.Test, name: str) -> None:
    assert test.name == name


def fake_model(chunk: int = 512) -> Any:
    """One attention layer with a window of 4, a matrix of 100 bytes, a head of 1000."""
    from pyml_core.kv_layout import KVLayout

    tokens, outputs = SimpleNamespace(rows="tokens"), SimpleNamespace(rows="outputs")
    matrix = SimpleNamespace(nbytes=100, shape=(5, 20))
    head = SimpleNamespace(nbytes=1000, shape=(50, 20))
    operations = [
        SimpleNamespace(kind="linear", output=tokens, params={"matrices": (matrix,)}),
        SimpleNamespace(kind="attention", output=tokens, params={"window": 4, "n_heads": 2}),
        SimpleNamespace(kind="linear", output=outputs, params={"matrices": (head,)}),
    ]
    model = SimpleNamespace(program=SimpleNamespace(operations=operations, screening=None))
    return SimpleNamespace(model=model, kv_layout=KVLayout(1, 1, 8), prefill_chunk=chunk)


KV = 2 * 8 * 2  # bytes a position
PAIR = 4 * 2 * 8  # operations for a query and a key, both heads


def test_cost_of_a_prefill() -> None:
    read, flops = bench.cost(fake_model(), bench.Test(6, 0, 0, 1))
    assert read == 100 + 1000 + 6 * KV
    assert flops == 2 * 6 * 100 + 2 * 1000 + (1 + 2 + 3 + 4 + 4 + 4) * PAIR


def test_cost_of_a_prefill_in_chunks() -> None:
    read, flops = bench.cost(fake_model(chunk=4), bench.Test(6, 0, 0, 1))
    assert read == 2 * 100 + 1000 + (4 + 3 + 2) * KV
    assert flops == bench.cost(fake_model(), bench.Test(6, 0, 0, 1))[1]


def test_cost_of_decoding() -> None:
    read, flops = bench.cost(fake_model(), bench.Test(0, 3, 2, 1))
    assert read == 3 * 1100 + (3 + 4 + 4) * KV
    assert flops == 3 * 2 * 1100 + (3 + 4 + 4) * PAIR


def test_cost_of_decoding_together() -> None:
    one, both = bench.cost(fake_model(), bench.Test(0, 3, 0, 1)), bench.cost(fake_model(), bench.Test(0, 3, 0, 2))
    weights = 3 * 1100
    assert both[0] - weights == 2 * (one[0] - weights)
    assert both[1] == 2 * one[1]


def test_tokens_of_a_text() -> None:
    text = np.arange(100)
    windows = bench._sequences(fake_model(), bench.Test(0, 8, 2, 3), text)
    assert [window[0] for window in windows] == [0, 45, 90]
    assert all(len(window) == 10 for window in windows)
    with pytest.raises(PymlError, match="tg8@d99: needs a text of 107 tokens, --text has 100"):
        bench._sequences(fake_model(), bench.Test(0, 8, 99, 1), text)


def test_random_tokens_are_the_same_each_time() -> None:
    lm = SimpleNamespace(vocab_size=50)
    test = bench.Test(0, 8, 2, 3)
    first: Any = lm
    windows = bench._sequences(first, test, None)
    assert windows == bench._sequences(first, test, None)
    assert len({tuple(window) for window in windows}) == 3


def test_rows() -> None:
    row = bench._row(bench.Test(0, 10, 0, 2), [0.5, 1.0], 3_000_000_000, 0, 2, "scalar", "m|n", "auto", "full", "f16")
    assert (row.tokens_per_s, row.ms, row.gb_per_s, row.samples_ms) == (30.0, 750.0, 4.0, [500.0, 1000.0])
    assert row.stddev == pytest.approx(14.142, abs=1e-3)
    assert "| m\\|n | scalar | 2 | full | tg10@b2 | 30.00 ± 14.14 | 750.00 | 4.00 | 0.00 |" in bench._markdown([row])
    assert json.loads(bench._json([row]))[0]["test"] == "tg10@b2"


# ---- inspect


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1, 1),
        (0.5, 0.5),
        (True, True),
        (None, None),
        ("short", "short"),
        ("x" * 200, "x" * 100 + "... (200 characters)"),
        (np.arange(3), [0, 1, 2]),
        (np.zeros(99), "[99 values]"),
        (["a"] * 3, ["a"] * 3),
        ({"a": ["b"] * 20}, {"a": "[20 values]"}),
    ],
)
def test_shown_values(value: Any, shown: Any) -> None:
    result = inspect._shown(value)
    assert result == shown
    json.dumps(result)


def test_files_cannot_talk_to_the_terminal() -> None:
    assert inspect._printable("\x1b[31mred\nünd") == "\ufffd[31mred\ufffdünd"
