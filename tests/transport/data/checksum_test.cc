#include "transport/data/checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/rng.h"

namespace baton::transport {
namespace {

std::vector<std::byte> random_bytes(size_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<std::byte> out(n);
  for (auto& b : out) b = static_cast<std::byte>(rng.next());
  return out;
}

struct alignas(64) Line {
  std::byte bytes[64];
};

// CRC32C bit by bit, from its definition.
uint32_t crc32c(std::span<const std::byte> bytes) {
  uint32_t crc = ~0u;
  for (const std::byte b : bytes) {
    crc ^= static_cast<uint32_t>(b);
    for (int i = 0; i < 8; ++i) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0);
  }
  return ~crc;
}

TEST(CheckSum, DefinitionOfCrc32c) {
  const char* digits = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(digits, 9))), 0xE3069283u);  // the check value of the standard
}

// The value from its description in the header: eight chains over the words modulo 8, then the chains and
// the length.
TEST(CheckSum, EqualsItsDefinition) {
  const auto bytes = random_bytes(64 * 37, 1);
  std::vector<std::byte> chain[8];
  for (size_t at = 0; at < bytes.size(); at += 8)
    chain[at / 8 % 8].insert(chain[at / 8 % 8].end(), &bytes[at], &bytes[at] + 8);
  std::vector<uint64_t> last;
  for (const auto& c : chain) last.push_back(crc32c(c));
  last.push_back(bytes.size());
  PieceChecksum sum;
  sum.add(bytes);
  EXPECT_EQ(sum.value(), crc32c(std::as_bytes(std::span(last))));
}

using Kernel = void (*)(PieceChecksum::State&, const ChecksumRun&);

// Sizes around what the kernels do by pairs of lines, by pages and two pages ahead; chains that have begun.
void expect_like_portable(Kernel kernel) {
  for (const size_t n : {64u, 128u, 192u, 512u, 576u, 4096u, 4160u, 8192u, 12288u, 12352u, 65536u}) {
    const auto bytes = random_bytes(n, n);
    const auto* from = bytes.data();
    for (const bool around : {false, true}) {
      PieceChecksum::State expected{.crc = {1, 2, 3, 4, 5, 6, 7, ~0u}}, state = expected, only = expected;
      const auto room = std::make_unique<Line[]>(n / sizeof(Line));
      const std::byte* next = around ? from : nullptr;
      checksum_portable(expected, {.from = from, .bytes = n});
      kernel(state, {.to = room[0].bytes, .from = from, .bytes = n, .around_cache = around, .next = next});
      finish_stores();
      kernel(only, {.from = from, .bytes = n, .next = next});
      EXPECT_EQ(std::memcmp(&state, &expected, sizeof state), 0) << n;
      EXPECT_EQ(std::memcmp(&only, &expected, sizeof only), 0) << n;
      EXPECT_EQ(std::memcmp(room[0].bytes, from, n), 0) << n;
    }
  }
}

TEST(CheckSum, CrcInstructionAndPortableAgreeAndCopy) {
  if (!has_hardware_checksum()) GTEST_SKIP() << "no SSE4.2 on this machine";
  expect_like_portable(checksum_sse42);
}

TEST(CheckSum, WideProductsAndPortableAgreeAndCopy) {
  if (!has_wide_checksum()) GTEST_SKIP() << "no AVX-512 with VPCLMULQDQ on this machine";
  expect_like_portable(checksum_avx512);
}

TEST(CheckSum, PortableCopies) {
  const auto from = random_bytes(640, 9);
  std::vector<std::byte> to(from.size());
  PieceChecksum::State state;
  checksum_portable(state, {.to = to.data(), .from = from.data(), .bytes = from.size()});
  EXPECT_EQ(to, from);
}

// Places that are not aligned to lines cannot be written around the cache: they are written through it.
TEST(CheckSum, AnyPlaceWillDo) {
  const auto from = random_bytes(4096, 6);
  std::vector<std::byte> to(from.size() + 64);
  PieceChecksum sum, expected;
  expected.add(from);
  for (size_t shift = 0; shift < 64; shift += 8) {
    sum = {};
    sum.copy(to.data() + shift, from, true);
    EXPECT_EQ(sum.value(), expected.value());
    EXPECT_TRUE(std::equal(from.begin(), from.end(), to.begin() + static_cast<ptrdiff_t>(shift)));
  }
}

TEST(CheckSum, DoesNotDependOnTheCut) {
  const auto bytes = random_bytes(64 * 100, 3);
  PieceChecksum whole;
  whole.add(bytes);
  Rng rng(4);
  for (int round = 0; round < 20; ++round) {
    PieceChecksum parts;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = std::min<size_t>(64 * (1 + rng.below(9)), bytes.size() - at);
      parts.add(std::span(bytes).subspan(at, n));
      at += n;
    }
    EXPECT_EQ(parts.value(), whole.value());
  }
}

TEST(CheckSum, SeesEveryFlippedBitAndEveryLength) {
  auto bytes = random_bytes(256, 5);
  PieceChecksum sum;
  sum.add(bytes);
  for (size_t bit = 0; bit < 256 * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    PieceChecksum other;
    other.add(bytes);
    EXPECT_NE(other.value(), sum.value()) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
  const std::vector<std::byte> zeros(128);
  PieceChecksum one, two;
  one.add(std::span(zeros).first(64));
  two.add(zeros);
  EXPECT_NE(one.value(), two.value());
}

}  // namespace
}  // namespace baton::transport
