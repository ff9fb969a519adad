#!/usr/bin/env bash
# All that wants a GPU, on a bare machine: what pack.sh collected, a driver, and CUDA 13's libcublasLt (found in Python's
# packages or /usr/local/cuda). No network, no packages, nothing is changed outside of OUT (default ./gpu-out).
# usage: run.sh [STEP ...]        without names: every step that is not done yet, the most telling first, until BUDGET
#                                 seconds (570) would not hold the next one; call it again for the rest
# Every step ends within its limit, below 9 minutes, and leaves a log, its JSON lines where it measures, and one line in
# OUT/steps.jsonl: ok, failed, timeout, skipped (with the reason) or left (no time). All of it also lies in OUT/gpu-out.tgz.
# Exit: 0 all ran, or skipped for want of a device; 1 a step failed; 2 no such step; 4 steps are left.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export here OUT=${OUT:-$PWD/gpu-out} DEVICE=${DEVICE:-cuda}
budget=${BUDGET:-570}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
steps=(device:60 check:400 tests:240 serve:120 serve_pd:120 decode_8b:150 prefill_8b:120 overlap_8b:150 fp8_8b:150 fastest_8b:120 tune_8b:500 mma_8b:120 eager:120
  decode_8b_long:150 llama_8b:90 small:60 profile:240 memcheck:400 racecheck:400 initcheck:400)

cuda_libraries() {  # folders with libcublasLt.so.13
  timeout 20 python3 - <<'PY' 2>/dev/null
import glob, os
try:
    import nvidia
    roots = list(nvidia.__path__)
except ImportError:
    roots = []
for root in roots:
    for folder in glob.glob(os.path.join(root, "*", "lib")):
        if glob.glob(os.path.join(folder, "libcublasLt.so.13")):
            print(folder)
PY
  for folder in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib; do
    [ -e "$folder/libcublasLt.so.13" ] && echo "$folder"
  done
}
LD_LIBRARY_PATH=$here/lib:$(cuda_libraries | paste -sd:):${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH BATON_CUDA_LIBRARY=$here/lib/libbaton_cuda.so
skip() { echo "$*"; exit 77; }
bench() { "$here/gpu_step_benchmark" --device "$DEVICE" "$@"; }

# A kernel that never ends is found after this many seconds, not by the step's limit (compute-sanitizer is slow).
export BATON_CUDA_DEADLINE=20

# Ends the step unless a device is there: skipped with the reason when the machine has none, failed when it has one that
# the program cannot use.
need_device() {
  local said
  said=$(BATON_CUDA_WGMMA=0 BATON_CUDA_GRAPHS=0 BATON_CUDA_PDL=0 timeout -k 5 40 "$here/gpu_step_benchmark" --device "$DEVICE" --shape tiny --batch 1 --context 64 --repetitions 1 2>&1) && return
  if [[ $said == *"no NVIDIA driver"* || $said == *"has no device"* ]]; then skip "${said//$'\n'/ }"; fi
  if ! nvidia-smi -L >/dev/null 2>&1; then skip "no GPU here (nvidia-smi finds none), and: ${said//$'\n'/ }"; fi
  echo "$said"
  exit 1
}
step_device() {
  need_device
  command -v nvidia-smi >/dev/null || return 0
  nvidia-smi -L && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.sm,power.limit --format=csv
}
# Every set of kernels, whatever becomes of the others. The first one that is right, fastest first, is what later steps use.
step_check() {
  need_device
  local failed=0 set
  rm -f "$OUT/kernels"
  for set in BATON_CUDA_WGMMA=1 BATON_CUDA_GRAPHS=0 BATON_CUDA_WGMMA=0 BATON_CUDA_PDL=1; do
    echo "== $set"
    if ! env "$set" timeout -k 5 60 "$here/gpu_step_benchmark" --device "$DEVICE" --check 600; then
      failed=1
    elif [ ! -e "$OUT/kernels" ]; then
      echo "$set" >"$OUT/kernels"
    fi
  done
  echo "== quantization fp8"
  timeout -k 5 60 "$here/gpu_step_benchmark" --device "$DEVICE" --quantization fp8 --check 600 || failed=1
  echo "== numerics fastest"
  timeout -k 5 60 "$here/gpu_step_benchmark" --device "$DEVICE" --numerics fastest --check 600 || failed=1
  echo "later steps use $(cat "$OUT/kernels" 2>/dev/null || echo "what is fastest, though no set of kernels is right")"
  return $failed
}
step_tests() { need_device; "$here/cuda_gpu_test"; }
step_eager() { need_device; export BATON_CUDA_GRAPHS=0; "$here/cuda_gpu_test" && bench --shape qwen3-8b --batch 1,64 --context 1024; }
step_decode_8b() { need_device; bench --shape qwen3-8b --batch 1,8,64,256 --context 1024; }
step_decode_8b_long() { need_device; bench --shape qwen3-8b --batch 1,8,32 --context 8192 && bench --shape qwen3-8b --batch 1 --context 32768; }
step_prefill_8b() { need_device; for rows in 2048 8192 512; do bench --shape qwen3-8b --prefill $rows --context $rows || return 1; done; }
step_overlap_8b() { need_device; export BATON_CUDA_PDL=1; "$here/cuda_gpu_test" --gtest_filter='*SameBits*' && bench --shape qwen3-8b --batch 1,8,64,256 --context 1024 && bench --shape smollm2 --batch 1 --context 1024; }
step_fp8_8b() { need_device; bench --quantization fp8 --shape qwen3-8b --batch 1,8,64,256 --context 1024 && bench --quantization fp8 --shape qwen3-8b --prefill 8192 --context 8192; }
step_fastest_8b() { need_device; bench --numerics fastest --shape qwen3-8b --batch 1,8,64,256 --prefill 2048 --context 2048; }
# Algorithms of one class of bits, what they cost (a line each), that rows have the same bits, and steps with them.
step_tune_8b() {
  need_device
  local table=$OUT/qwen3-8b.algorithms
  bench --shape qwen3-8b --tune "$table" && bench --algorithms "$table" --check 600 &&
    bench --algorithms "$table" --shape qwen3-8b --batch 1,8,64,256 --prefill 2048 --context 2048
}
step_mma_8b() { need_device; export BATON_CUDA_WGMMA=0; bench --shape qwen3-8b --batch 1,8,64,256 --prefill 2048 --context 2048; }
step_llama_8b() { need_device; bench --shape llama-8b --batch 1,8,64 --context 1024; }
step_small() { need_device; bench --shape llama-1b --batch 1,8,64 --context 1024 && bench --shape smollm2 --batch 1,8,64 --context 1024; }

# A whole server: HTTP in, SSE out, the model of 1 MB. $1: its pools; $2: how its requests go (x-baton-path).
serve_pools() {
  [ -f "$here/model.gguf" ] || skip "no model was packed (MODEL=FILE pack.sh)"
  need_device
  local home status
  home=$(mktemp -d) && cp "$here/model.gguf" "$home/" && export BATON_HOME=$home
  printf 'apiVersion: baton/v1\nkind: Cluster\nmetadata: {name: gpu}\nspec:\n  pools:\n%s\n' "$1" >"$home/cluster.yaml"
  # Each with a limit of its own: what a step that timed out has left running would keep the device.
  timeout -k 5 40 "$here/baton" serve "$home/model.gguf" --file "$home/cluster.yaml" --port 0 --detach | tee "$home/said" &&
    timeout -k 5 20 "$here/baton" bench serve --clients 1 --requests 8 --prompt-tokens 128 --output-tokens 64 --output json &&
    timeout -k 5 20 "$here/baton" bench serve --clients 16 --requests 64 --prompt-tokens 128 --output-tokens 64 --output json &&
    timeout -k 5 20 python3 - "$home/said" "$2" "$OUT/serve.text" <<'PY'
import json, os, re, sys, urllib.request
url = re.search(r"http://[0-9.:]+", open(sys.argv[1]).read()).group()
body = {"model": "default", "prompt": "Once upon a time", "max_tokens": 100, "temperature": 0.8, "seed": 7}
request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=10) as answer:
    path, text = answer.headers["x-baton-path"], json.load(answer)["choices"][0]["text"]
print(path, repr(text))
with urllib.request.urlopen(url + "/metrics", timeout=10) as metrics:
    print("".join(line for line in metrics.read().decode().splitlines(True) if "lane=" in line))
if not path.startswith(sys.argv[2]):
    sys.exit(f"the request went {path}, not {sys.argv[2]}")
# The tokens do not depend on who computes them.
if os.path.exists(sys.argv[3]) and open(sys.argv[3]).read() != text:
    sys.exit("another text than with other pools: " + sys.argv[3])
open(sys.argv[3], "w").write(text)
PY
  status=$?
  timeout -k 5 20 "$here/baton" down
  [ $status = 0 ] || find "$home" -name '*.log' -exec tail -n 5 {} +
  rm -rf "$home"
  return $status
}
pool() { echo "    $1: {device: \"$DEVICE\", numerics: bf16dot, kv: {memory: 64Mi, dtype: bf16, blockTokens: 64}}"; }
step_serve() { serve_pools "$(pool any)" ""; }
# Prefill and decode in a process each, on one GPU: KV by CUDA IPC.
step_serve_pd() { serve_pools "$(pool prefill; pool decode)" remote-prefill; }

sanitize() {
  need_device
  command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer in PATH"
  BATON_CUDA_DEADLINE=300 compute-sanitizer --tool "$1" --error-exitcode 9 "$here/cuda_gpu_test" --gtest_filter='*FollowsTheReference*'
}
step_memcheck() { sanitize memcheck; }
step_racecheck() { sanitize racecheck; }
step_initcheck() { sanitize initcheck; }
step_profile() {
  need_device
  command -v ncu >/dev/null || skip "no ncu in PATH"
  BATON_CUDA_GRAPHS=0 ncu --clock-control none --set basic --launch-skip 40 --launch-count 12 "$here/gpu_step_benchmark" \
    --device "$DEVICE" --shape llama-1b --batch 8 --context 1024 --repetitions 1
}

quoted() { printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g' | cut -c1-400; }
record() {  # name, status, exit, seconds, why
  local line
  line="{\"step\": \"$1\", \"status\": \"$2\", \"exit\": $3, \"seconds\": $4, \"why\": \"$(quoted "$5")\"}"
  sed -i "/^{\"step\": \"$1\"/d" "$OUT/steps.jsonl"
  echo "$line" | tee -a "$OUT/steps.jsonl"
}
run_step() {  # name, limit
  local name=$1 limit=$2 begun=$SECONDS code=0 status=ok why=""
  timeout -k 10 "$limit" "$BASH" "${BASH_SOURCE[0]}" --inside "$name" >"$OUT/$name.log" 2>&1 </dev/null || code=$?
  grep '^{' "$OUT/$name.log" >"$OUT/$name.json" || rm -f "$OUT/$name.json"
  if [ $code != 0 ]; then why=$(tail -n 1 "$OUT/$name.log"); fi
  case $code in 0) ;; 77) status=skipped ;; 124 | 137) status=timeout why="over $limit s" ;; *) status=failed ;; esac
  record "$name" $status $code $((SECONDS - begun)) "$why"
}
limit_of() { local entry; for entry in "${steps[@]}"; do [ "${entry%:*}" = "$1" ] && echo "${entry#*:}"; done; }

if [ "${1:-}" = --inside ]; then
  if [ "$2" != check ] && [ -s "$OUT/kernels" ]; then
    set="$(cat "$OUT/kernels")" && export "${set?}"
  fi
  "step_$2"
  exit
fi
touch "$OUT/steps.jsonl"
cp "$here/commit" "$OUT/commit"
wanted=("$@")
if [ $# -eq 0 ]; then
  for entry in "${steps[@]}"; do
    grep -q "^{\"step\": \"${entry%:*}\", \"status\": \"ok\"" "$OUT/steps.jsonl" || wanted+=("${entry%:*}")
  done
fi
for name in ${wanted[@]+"${wanted[@]}"}; do
  [ -n "$(limit_of "$name")" ] || { echo "run.sh: no step $name; there are: ${steps[*]%:*}" >&2; exit 2; }
done
for name in ${wanted[@]+"${wanted[@]}"}; do
  limit=$(limit_of "$name")
  if [ $((SECONDS + limit)) -gt "$budget" ]; then record "$name" left 0 0 "not begun: $((budget - SECONDS)) s are left, it may take $limit"; else run_step "$name" "$limit"; fi
done
rm -f "$OUT/gpu-out.tgz"
(cd "$OUT" && tar czf gpu-out.tgz -- *.log *.json* commit $([ ! -e kernels ] || echo kernels) $(ls -- *.algorithms 2>/dev/null) 2>/dev/null)
code=0
if grep -q '"status": "left"' "$OUT/steps.jsonl"; then code=4; fi
if grep -qE '"status": "(failed|timeout)"' "$OUT/steps.jsonl"; then code=1; fi
echo "run.sh: $(grep -c '"status": "ok"' "$OUT/steps.jsonl") of ${#steps[@]} steps are done, results in $OUT/gpu-out.tgz"
exit $code
