"""Parts of the commands that need no process of their own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from pyml_core.errors import PymlError
from pyml_nlp.cli import infer, main, options
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
        (click.NoSuchOption("--x"), 2, "Error: unexpected argument '--x' found; pyml-fake --help lists the options"),
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
        pyml_nlp.nothing  # type: ignore[attr-defined]  # noqa: B018
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


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes, terminal: bool = False) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: terminal))


def test_prompt_from_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(monkeypatch, " zwei\nZeilen ü\n".encode())
    assert infer._prompt(None, 0) == " zwei\nZeilen ü\n"
    assert capsys.readouterr().err == ""
    stdin(monkeypatch, b"x", terminal=True)
    assert infer._prompt(None, 0) == "x"
    assert capsys.readouterr().err == "Reading prompt from stdin... (Ctrl-D ends it)\n"
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


# ---- progress


def test_progress_where_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("pyml_nlp.cli.output.time", SimpleNamespace(monotonic=lambda: now[0]))
    with ProgressBar("Evaluating") as bar:
        for done in range(1, 21):
            now[0] += 1
            bar(done, 20, f"{done} of 20 windows")
    assert capsys.readouterr().err == (
        "Evaluating: 5 of 20 windows, 15 s left\nEvaluating: 10 of 20 windows, 10 s left\n"
        "Evaluating: 15 of 20 windows, 5 s left\n"
    )
    with ProgressBar("Loading", wanted=False) as bar:
        now[0] += 60
        bar(1, 2)
    assert capsys.readouterr().err == ""
    with ProgressBar("Loading") as bar:
        now[0] += 60
        bar(1, 4)
    assert capsys.readouterr().err == "Loading: 25 %, 3 min left\n"
