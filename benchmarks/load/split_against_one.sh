#!/usr/bin/env bash
# One load on the same machine, served by prefill + decode workers and by one worker of role any: a table with both.
# usage: benchmarks/load/split_against_one.sh [BATON_BINARY]      (default: build/release/cli/baton; needs the default model)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
binary=${1:-$root/build/release/cli/baton}
home=$(mktemp -d)
model=${BATON_SMOLLM2:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/models/SmolLM2-135M-Instruct.Q4_1.gguf}
export BATON_HOME=$home
trap '"$binary" down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT

for manifest in local aggregated; do
  "$binary" serve "$model" -f "$root/deploy/manifests/$manifest.yaml" --port 0 --detach >/dev/null
  "$binary" bench serve -c 1 -r 4 -p 64 -n 16 >/dev/null  # warm
  for clients in 1 8; do
    echo "== $manifest.yaml, $clients at a time"
    "$binary" bench serve -c "$clients" -r $((clients * 8)) -p 256 -n 64
  done
  "$binary" down >/dev/null
done
