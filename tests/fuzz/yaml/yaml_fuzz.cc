// Any bytes as a cluster manifest: parsed or refused, never a crash; what is accepted can be written and read
// again.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "cli/cluster/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto manifest = baton::cli::parse_manifest("/fuzz.yaml", text);
  if (manifest.ok() && !baton::cli::parse_manifest("/fuzz.yaml", baton::cli::to_yaml(*manifest)).ok())
    std::abort();
  return 0;
}
