#!/bin/sh
# Compile pyml-core's C files, at their scalar level, for ARM64 with no warning, run every operation under emulation, and compare the
# bits with those of this machine. Needs Debian's packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static.
# Usage: sh scripts/arm64.sh      CROSS_CC and QEMU name other compilers and emulators.
set -eu
cd "$(dirname "$0")/../packages/pyml-core"
cross=${CROSS_CC:-aarch64-linux-gnu-gcc}
qemu=${QEMU:-qemu-aarch64-static}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-O3 -std=c11 -ffp-contract=off -fvisibility=hidden -pthread -Wall -Wextra -Werror -static -DPYML_LEVEL=scalar -DPYML_HAVE_SCALAR=1"
for level in AVX2 AVX_VNNI AVX512 AVX512_VNNI; do flags="$flags -DPYML_HAVE_$level=0"; done
sources="src/pyml_core/csrc/*.c src/pyml_core/csrc/level/*.c tests/scalar_digest.c"
# shellcheck disable=SC2086
{
    ${CC:-cc} $flags $sources -lm -o "$work/here"
    $cross $flags $sources -lm -o "$work/arm64"
}
"$work/here" >"$work/here.txt"
$qemu "$work/arm64" >"$work/arm64.txt"
diff "$work/here.txt" "$work/arm64.txt"
echo "$(wc -l <"$work/here.txt") results are the same, bit for bit"
