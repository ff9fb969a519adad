#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "coordinator/gateway/head_check.h"

namespace {

struct Verdict {
  int status = 0;
  size_t taken = 0;
  size_t body_bytes = 0;
  friend bool operator==(const Verdict&, const Verdict&) = default;
};

Verdict check_in_pieces(std::string_view bytes, size_t piece) {
  baton::coordinator::HeadCheck check({.body_bytes = 4096, .chunks = 64});
  Verdict verdict;
  while (verdict.taken < bytes.size() && !check.rejected() && !check.complete()) {
    const size_t n = check.feed(bytes.substr(verdict.taken, piece));
    BATON_CHECK(n > 0 && n <= piece, "an undecided check takes bytes");
    verdict.taken += n;
  }
  verdict.status = check.rejected() ? check.status() : check.complete() ? 200 : 0;
  verdict.body_bytes = check.body_bytes();
  BATON_CHECK(verdict.body_bytes <= 4096);
  return verdict;
}

}  // namespace

// The first byte says how the rest is cut; the verdict must not depend on it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Verdict whole = check_in_pieces(bytes, bytes.size() + 1);
  BATON_CHECK(check_in_pieces(bytes, 1) == whole);
  BATON_CHECK(check_in_pieces(bytes, 1 + data[0]) == whole);
  return 0;
}
