"""The scratch layout of attention: regions do not overlap, and fit the allocated size."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ladder_library import CSRC, FLAGS, compiler


def test_regions_of_the_scratch_do_not_overlap(tmp_path: Path) -> None:
    program = tmp_path / "attention_layout"
    levels = [f"-DPYML_HAVE_{level}=0" for level in ("AVX2", "AVX_VNNI", "AVX512", "AVX512_VNNI")]
    sources = [Path(__file__).with_name("attention_layout.c"), *CSRC.glob("*.c"), *CSRC.glob("level/*.c")]
    flags = [*FLAGS, "-O0", "-pthread", f"-I{CSRC}", "-DPYML_LEVEL=scalar", "-DPYML_HAVE_SCALAR=1", *levels]
    subprocess.run([*compiler(), *flags, *map(str, sources), "-lm", "-o", str(program)], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[:2000]
