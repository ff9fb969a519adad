#!/usr/bin/env bash
# All that wants a GPU, on a bare machine: what pack.sh collected, a driver, and CUDA 13's libcublasLt (found in Python's
# packages or /usr/local/cuda). No network, no packages. Each step ends within 9 minutes and leaves a log, and JSON lines
# where it measures, in OUT (default ./gpu-out). A step that fails does not stop the others.
# usage: run.sh [STEP ...]        without: every step, in this order
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${OUT:-$PWD/gpu-out}
mkdir -p "$out"
limit=540
steps=(device tests eager decode_8b decode_8b_long prefill_8b fastest_8b llama_8b small sanitizer profile)

cuda_libraries() {  # folders with libcublasLt.so.13
  python3 - <<'PY' 2>/dev/null
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
bench() { "$here/gpu_step_benchmark" --device cuda "$@"; }

step_device() { nvidia-smi -L && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv; }
step_tests() { "$here/cuda_gpu_test"; }
step_eager() { BATON_CUDA_GRAPHS=0 "$here/cuda_gpu_test" && BATON_CUDA_GRAPHS=0 bench --shape qwen3-8b --batch 1,64 --context 1024; }
step_decode_8b() { bench --shape qwen3-8b --batch 1,8,64,256 --context 1024; }
step_decode_8b_long() { bench --shape qwen3-8b --batch 1,8,32 --context 8192 && bench --shape qwen3-8b --batch 1 --context 32768; }
step_prefill_8b() { for rows in 512 2048 8192; do bench --shape qwen3-8b --prefill $rows --context $rows || return 1; done; }
step_fastest_8b() { bench --numerics fastest --shape qwen3-8b --batch 1,8,64,256 --prefill 2048 --context 2048; }
step_llama_8b() { bench --shape llama-8b --batch 1,8,64 --context 1024; }
step_small() { bench --shape llama-1b --batch 1,8,64 --context 1024 && bench --shape smollm2 --batch 1,8,64 --context 1024; }
step_sanitizer() {
  command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here: skipped"; return 0; }
  for tool in memcheck racecheck initcheck; do
    compute-sanitizer --tool $tool --error-exitcode 9 "$here/cuda_gpu_test" --gtest_filter='*FollowsTheReference*' || return 1
  done
}
step_profile() {
  command -v ncu >/dev/null || { echo "no ncu here: skipped"; return 0; }
  BATON_CUDA_GRAPHS=0 ncu --set basic --launch-skip 40 --launch-count 12 "$here/gpu_step_benchmark" --device cuda --shape llama-1b \
    --batch 8 --context 1024 --repetitions 1
}

run_step() {
  local name=$1 begun=$SECONDS code=0
  echo "== $name"
  (export -f bench "step_$name"; export here; timeout "$limit" bash -c "step_$name") >"$out/$name.log" 2>&1 || code=$?
  grep '^{' "$out/$name.log" >"$out/$name.json" || rm -f "$out/$name.json"
  tail -n 4 "$out/$name.log" | cut -c1-200
  echo "{\"step\": \"$name\", \"exit\": $code, \"seconds\": $((SECONDS - begun))}" | tee -a "$out/steps.json"
}

if [ $# -eq 0 ]; then set -- "${steps[@]}"; fi
for name in "$@"; do
  [[ " ${steps[*]} " == *" $name "* ]] || { echo "run.sh: no step $name; there are: ${steps[*]}" >&2; exit 2; }
  run_step "$name"
done
