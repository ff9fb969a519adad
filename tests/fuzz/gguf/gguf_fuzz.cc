// libFuzzer target of the GGUF parser. Any bytes: an error or a file whose every tensor and string is
// readable.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/gguf_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto file = baton::GgufFile::from_bytes("fuzz", std::string(reinterpret_cast<const char*>(data), size));
  if (!file.ok()) return 0;
  volatile unsigned sum = 0;
  for (const auto& tensor : (*file)->tensors()) {
    for (size_t i = 0; i < tensor.bytes; ++i) sum = sum + std::to_integer<unsigned>(tensor.data[i]);
    if ((*file)->tensor(tensor.name) != &tensor) __builtin_trap();
  }
  if (const auto* tokens = (*file)->array("tokens"))
    for (const auto s : tokens->strings)
      for (const char c : s) sum = sum + static_cast<unsigned char>(c);
  return 0;
}
