#!/usr/bin/env bash
# All scenarios in three forms of one machine: one `any` worker with all cores, two with one core each, prefill + decode with one
# core each; then the table that holds them against the bars. Under 3 minutes a form on an idle machine.
# usage: benchmarks/load/scenarios.sh [-b BATON_BINARY] [-m MODEL] [-o FOLDER] [-s SCENARIOS] [-x SCALE] [FORM...]
#   FOLDER: where FORM.json, ceilings.json and results.md go (default: a new one below /tmp); FORM: one_any two_any prefill_decode prefill_decode_shared (default: the first three)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
binary=$root/build/release/cli/baton
model=${BATON_SMOLLM2:-${XDG_CACHE_HOME:-$HOME/.cache}/baton/models/SmolLM2-135M-Instruct.Q4_1.gguf}
out='' scenarios=S1..S7 scale=1
while getopts b:m:o:s:x: option; do
  case $option in
    b) binary=$OPTARG ;; m) model=$OPTARG ;; o) out=$OPTARG ;; s) scenarios=$OPTARG ;; x) scale=$OPTARG ;;
    *) sed -n '4,5p' "$0" >&2; exit 2 ;;
  esac
done
shift $((OPTIND - 1))
forms=("$@")
[ ${#forms[@]} -gt 0 ] || forms=(one_any two_any prefill_decode)
[ -n "$out" ] || out=$(mktemp -d /tmp/baton-scenarios.XXXXXX)
mkdir -p "$out"
home=$(mktemp -d)
export BATON_HOME=$home
trap '"$binary" down >/dev/null 2>&1 || true; rm -rf "$home"' EXIT

say() { printf '%s\n' "$*" >&2; }
now_ms() { date +%s%3N; }

# What the machine can do in this run; figures of other servers are scaled by it.
if ! "$binary" bench engine -m "$model" -p 16 -n 4 -t "$(nproc)" -o json >"$out/ceilings.json" 2>/dev/null; then
  rm -f "$out/ceilings.json"
  say "no ceilings: the bars stay as they were measured on the reference machine"
fi

cat "$model" >/dev/null  # into the page cache
for form in "${forms[@]}"; do
  say "== $form"
  begun=$(now_ms)
  "$binary" serve "$model" -f "$root/benchmarks/load/forms/$form.yaml" --port 0 --detach >/dev/null
  ready=$(now_ms)
  "$binary" bench serve -c 1 -r 1 -p 8 -n 1 -o json >"$out/first.json"
  first=$(now_ms)
  sleep 1
  "$binary" bench serve --scenario idle,"$scenarios" --scale "$scale" -o json >"$out/$form.json" || say "$form: some requests failed"
  python3 - "$out/$form.json" "$form" "$model" $((ready - begun)) $((first - begun)) <<'PY'
import json, sys
path, form, model, ready, first = sys.argv[1:]
with open(path) as f:
    result = json.load(f)
result.update(form=form, model=model.rsplit("/", 1)[-1], start={"ready_ms": int(ready), "first_token_ms": int(first)})
with open(path, "w") as f:
    json.dump(result, f, indent=1)
PY
  "$binary" down >/dev/null
done
rm -f "$out/first.json"
say "== gateway"
"$binary" bench serve --scenario G -m "$model" --scale "$scale" -o json >"$out/gateway.json" || say "gateway: some requests failed"
python3 "$root/benchmarks/load/compare.py" "$out" | tee "$out/results.md"
say "results are in $out"
