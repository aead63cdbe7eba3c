#!/usr/bin/env bash
# Runs the tour of fleet-console/README.md as it stands there, in a clean clone of what is committed, with state of its own: what it says is
# what a new user gets. Takes ports 7400 and 7401. Usage: scripts/tour.sh [FOLDER]; the last line is `tour: passed` or `tour: failed, ...`.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$folder"
git clone -q "$root" "$folder/quantd"
cd "$folder/quantd"
export XDG_STATE_HOME="$folder/state"
# Node's own headers, where they lie beside it, so that addons compile without downloading any.
prefix=$(dirname "$(dirname "$(realpath "$(command -v node)")")")
if [ -f "$prefix/include/node/node.h" ]; then export npm_config_nodedir="$prefix"; fi

awk '/^## /{tour = ($0 == "## A tour")} /^```/{if (tour) inside = !inside; next} tour && inside' fleet-console/README.md >"$folder/tour"
[ -s "$folder/tour" ] || { echo 'tour: failed, there is none in fleet-console/README.md'; exit 1; }

# A session of its own, so that what the tour leaves running ends with it.
setsid timeout 1500 bash -euxo pipefail "$folder/tour" >"$folder/out" 2>&1 &
tour=$!
end() { kill -- "-$tour" 2>/dev/null || true; }
trap end EXIT
wait "$tour" || { tail -n 30 "$folder/out"; echo "tour: failed, see $folder/out"; exit 1; }

# What the tour is for: a latency and an accuracy, measured on the device, of both releases.
for release in firewatch@1 firewatch@2; do
  grep -Eq "$release .* [0-9.]+ (ms|us|µs) .* [0-9.]+ %" "$folder/out" ||
    { cat "$folder/out"; echo "tour: failed, no latency and accuracy of $release"; exit 1; }
done
grep -E '^(time|device) |firewatch@[12] .* %' "$folder/out"
[ -n "${1:-}" ] || rm -rf "$folder"
echo 'tour: passed'
