#!/bin/sh
# A Chromium for the tests of pages (`hatch -e page run test`): the one that is here, or Debian's package, if we may install it.
set -eu
for name in chromium chromium-browser google-chrome chrome; do
    if command -v "$name"; then
        exit 0
    fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "pyml: Chromium is needed for the tests of pages; on Debian: sudo apt install chromium" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
command -v chromium
