#!/bin/sh
# Build deploy/Dockerfile with buildah, without a daemon, and serve a model with the image's own user and command:
#   sh deploy/test_image.sh MODEL.gguf [BASE]       as root; further options of `buildah bud` in BUILD_OPTIONS;
#   IMAGE names an image that has been built already
# BASE is an image with Python 3.11 or later. Without a registry, one of Debian's packages will do:
#   mmdebstrap --variant=minbase --include=python3,python3-pip,python3-dev bookworm base.tar
#   container=$(buildah from scratch); buildah add $container base.tar /
#   buildah run $container -- sh -c 'ln -s python3 /usr/bin/python; rm /usr/lib/python3*/EXTERNALLY-MANAGED'
#   buildah commit $container localhost/base
set -eu
model=$(realpath "$1")
base=${2:-python:3.13-slim}
cd "$(dirname "$0")/.."

if [ -z "${IMAGE:-}" ]; then
    # shellcheck disable=SC2086  # several options
    buildah bud --network host --build-arg "BASE=$base" ${BUILD_OPTIONS:-} -f deploy/Dockerfile -t pyml-test .
fi
container=$(buildah from "${IMAGE:-pyml-test}")
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; buildah rm "$container" >/dev/null; rm -rf "$folder"' EXIT

run() { # a command in the container, as the image's user, beside the network of the host
    buildah run --network host -v "$(dirname "$model"):/models:ro" "$container" -- "$@"
}
[ "$(run id -u)" = 10001 ] || { echo "the image's user is not 10001"; exit 1; }
run sh -c 'if touch /written 2>/dev/null || touch "$(command -v pyml)" 2>/dev/null; then exit 1; fi' ||
    { echo "the image's user may write outside of /tmp"; exit 1; }
run sh -c '! command -v gcc' >/dev/null || { echo "the image has a compiler"; exit 1; }

run env PYML_SERVE_API_KEY=secret pyml serve --host 127.0.0.1 --port 8137 "/models/$(basename "$model")" \
    >"$folder/log" 2>&1 &
server=$!
ready=
for _ in $(seq 120); do
    if curl -sf http://127.0.0.1:8137/ready >/dev/null; then ready=1; break; fi
    kill -0 $server || break
    sleep 1
done
[ -n "$ready" ] || { echo "the server does not start:"; cat "$folder/log"; exit 1; }
curl -sf http://127.0.0.1:8137/v1/completions -H 'authorization: Bearer secret' -H 'content-type: application/json' \
    -d '{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}'
echo
echo "the image works"
