#pragma once

#include <array>
#include <cstdint>

namespace baton {

// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): four 32-bit words as
// a pure function of key and counter. The same on every machine, so a moved stream goes on identically.
// Thread: any.
constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// Uniform in [0, 1) with 53 bits, for (seed, position, stream). Position = index in the sequence of the token
// that is being drawn (prompt included), stream = which draw of that token.
constexpr double uniform(uint64_t seed, uint64_t position, uint32_t stream = 0) {
  const auto w = philox({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), stream, 0},
                        {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{w[0]} << 32 | w[1]) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

// A sequential generator for tests and the simulator: the same Philox, counted up.
class Rng {
 public:
  explicit Rng(uint64_t seed) : seed_(seed) {}
  uint64_t next() {
    const auto w = philox({static_cast<uint32_t>(n_), static_cast<uint32_t>(n_ >> 32), 0, 1},
                          {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
    ++n_;
    return uint64_t{w[0]} << 32 | w[1];
  }
  double next_double() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  // Uniform in [0, bound); bound > 0. The modulo bias is below 2^-32 for bounds below 2^32.
  uint64_t below(uint64_t bound) { return next() % bound; }

 private:
  uint64_t seed_;
  uint64_t n_ = 0;
};

}  // namespace baton
