#!/usr/bin/env bash
# Collects what run.sh needs on a GPU machine that has nothing but a driver, bash and Python's CUDA 13 libraries: the GPU
# tests, the step benchmark, the baton binary, libbaton_cuda.so, and a model of 1 MB. The programs are linked once more
# with the static libraries of this machine; what has no static form lies in lib/ (not glibc, libstdc++ or cuBLAS).
# usage: benchmarks/gpu/pack.sh [BUILD [FOLDER]]     BUILD: build/release, made with BATON_CUDA=on; FOLDER: BUILD/gpu-pack
#        MODEL=FILE: a GGUF model for the step `serve`
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "${1:-$root/build/release}" && pwd)
pack=${2:-$build/gpu-pack}
programs=(cli/baton benchmarks/gpu/gpu_step_benchmark tests/kernels/cuda/cuda_gpu_test)
most_mib=60
for file in "${programs[@]}" lib/libbaton_cuda.so; do
  [ -f "$build/$file" ] || { echo "pack.sh: $build/$file is not there: BATON_CUDA=on ./baton test builds it" >&2; exit 1; }
done
rm -rf "$pack" "$pack.tgz"
mkdir -p "$pack/lib"

# The build's own link command, with libX.a in the place of every libX.so that has one (UCX stays: its plug-ins are found
# beside the shared form), and the libraries that the shared ones brought along.
link_static() {  # target
  local word archive words=()
  for word in $(ninja -C "$build" -t commands "$1" | tail -n 1); do
    case $word in
      : | '&&') continue ;;
      */libuc[pst].so*) ;;
      /*.so | /*.so.*) archive=${word%%.so*}.a; [ -f "$archive" ] && word=$archive ;;
      -lre2) word=-l:libre2.a ;;
      "$1") word=$pack/$(basename "$1") ;;
    esac
    words+=("$word")
  done
  (cd "$build" && "${words[@]}" -Wl,--gc-sections -Wl,--start-group "$(dirname "$absl")"/libabsl_[!s]*.a \
    "$(dirname "$absl")"/libabsl_s[!c]*.a -Wl,--end-group)
}
absl=$(g++ -print-file-name=libabsl_base.a)
for program in "${programs[@]}"; do link_static "$program"; done
cp "$root/benchmarks/gpu/run.sh" "$pack/"
cp "$build/lib/libbaton_cuda.so" "$pack/lib/"
model=${MODEL:-${BATON_SHARED:-$root/../shared}/models/stories260K-f32.gguf}
if [ -f "$model" ]; then cp "$model" "$pack/model.gguf"; chmod u+w "$pack/model.gguf"; else echo "pack.sh: no $model: step serve will be skipped"; fi
ldd "$pack"/{baton,gpu_step_benchmark,cuda_gpu_test} "$pack/lib/libbaton_cuda.so" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -Ev '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux[^/]*|libcublas[^/]*)\.so' |
  while read -r library; do cp -L "$library" "$pack/lib/"; done
strip "$pack"/{baton,gpu_step_benchmark,cuda_gpu_test} "$pack"/lib/*.so*
{ git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown; } >"$pack/commit"
size=$(du -sm "$pack" | cut -f1)
[ "$size" -lt "$most_mib" ] || { echo "pack.sh: $pack has $size MiB, want less than $most_mib" >&2; exit 1; }
tar czf "$pack.tgz" -C "$(dirname "$pack")" "$(basename "$pack")"
echo "$pack.tgz: $(du -sm "$pack.tgz" | cut -f1) MiB, unpacked $size; there: tar xzf $(basename "$pack").tgz && $(basename "$pack")/run.sh"
