// libFuzzer: any bytes as a safetensors file. Reads every byte of every tensor it accepts.
#include <cstdint>

#include "worker/model/safetensors_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tensors =
      baton::worker::parse_safetensors("fuzz", {reinterpret_cast<const std::byte*>(data), size});
  if (!tensors.ok()) return 0;
  size_t total = 0;
  unsigned sum = 0;
  for (const auto& tensor : *tensors) {
    total += tensor.bytes;
    for (size_t i = 0; i < tensor.bytes; ++i) sum += std::to_integer<unsigned>(tensor.data[i]);
  }
  volatile unsigned sink = sum;
  (void)sink;
  if (total > size) __builtin_trap();  // tensors do not overlap
  return 0;
}
