#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <random>

namespace baton::support {

// Seeds of random tests. BATON_SEED replays a run; every test prints the seed that it took.
inline std::optional<uint64_t> given_seed() {
  const char* text = std::getenv("BATON_SEED");
  return text == nullptr ? std::nullopt : std::optional<uint64_t>(std::strtoull(text, nullptr, 10));
}
inline uint64_t seed_or(uint64_t otherwise) {
  const uint64_t seed = given_seed().value_or(otherwise);
  std::cout << "BATON_SEED=" << seed << std::endl;
  return seed;
}
// Another one every time.
inline uint64_t fresh_seed() { return seed_or(std::random_device{}()); }

}  // namespace baton::support
