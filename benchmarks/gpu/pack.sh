#!/usr/bin/env bash
# Collects what run.sh needs on a GPU machine that has nothing but a driver, bash and Python's CUDA 13 libraries: the GPU
# tests, the step benchmark, libbaton_cuda.so and the shared libraries they need (not glibc, libstdc++ or cuBLAS).
# usage: benchmarks/gpu/pack.sh [BUILD [FOLDER]]     BUILD: build/release, made with BATON_CUDA=on; FOLDER: BUILD/gpu-pack
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${1:-$root/build/release}
pack=${2:-$build/gpu-pack}
programs=("$build/benchmarks/gpu/gpu_step_benchmark" "$build/tests/kernels/cuda/cuda_gpu_test")
for file in "${programs[@]}" "$build/lib/libbaton_cuda.so"; do
  [ -f "$file" ] || { echo "pack.sh: $file is not there: BATON_CUDA=on ./baton test builds it" >&2; exit 1; }
done
rm -rf "$pack"
mkdir -p "$pack/lib"
cp "${programs[@]}" "$root/benchmarks/gpu/run.sh" "$pack/"
cp "$build/lib/libbaton_cuda.so" "$pack/lib/"
ldd "${programs[@]}" "$build/lib/libbaton_cuda.so" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -Ev '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux[^/]*|libcublas[^/]*)\.so' |
  while read -r library; do cp -L "$library" "$pack/lib/"; done
strip "$pack/gpu_step_benchmark" "$pack/cuda_gpu_test" "$pack"/lib/*.so* 2>/dev/null || true
echo "$pack: $(du -sm "$pack" | cut -f1) MiB; copy it and run $(basename "$pack")/run.sh there"
