#pragma once

#include <cstdint>

namespace baton::kernels::cpu {

// A stretch of weights that a thread reads from its begin to its end.
struct WeightPiece {
  const std::byte* begin = nullptr;
  int64_t bytes = 0;
  int64_t start = 0;  // bytes of the pieces before it
};

// The weights that one thread reads in a step, in order (WeightOrder), and how far it has asked memory for
// them, into the second cache. A matrix that is far enough ahead asks more slowly than it reads; what lies
// between matrices asks for more than it needs itself: so memory is busy as well while nobody waits for it.
// One thread's. Kernels are compiled for several instruction sets: nothing here may become a function.
struct WeightsAhead {
  const WeightPiece* pieces = nullptr;
  int count = 0;
  int reading = 0;       // the piece being read
  int asking = 0;        // the piece being asked for
  int64_t asked = 0;     // bytes of it
  int64_t read_end = 0;  // where the piece being read ends, in bytes of all pieces

  // Nothing behind the last piece.
  [[gnu::always_inline]] void ask(int lines) {
    if (asked >= pieces[asking].bytes) return;
    const std::byte* from = pieces[asking].begin + asked;
    for (int i = 0; i < lines; ++i) __builtin_prefetch(from + i * 64, 0, 2);
    advance(lines * 64);
  }

  // For work between matrices.
  [[gnu::always_inline]] void ask_more(int lines) {
    constexpr int64_t kMost = 256 * 1024;  // of a second cache
    if (count > 0 && pieces[asking].start + asked < read_end + kMost) ask(lines);
  }

  // The lines to ask for with each of the slabs in `bytes` of weights at `at`, which the thread reads now,
  // when `tiles` tiles pass over them and a slab has `lines`. What follows these bytes is asked for by then.
  [[gnu::always_inline]] int lines_of_slab(const std::byte* at, int64_t bytes, int lines, int tiles) {
    constexpr int64_t kEnough = 32 * 1024;
    const int64_t here = pieces[reading].start + (at - pieces[reading].begin);
    int64_t lead = pieces[asking].start + asked - here;
    if (lead < bytes) {
      asking = reading;
      asked = at - pieces[reading].begin;
      advance(lead = bytes);
    }
    const int even = (lines + tiles - 1) / tiles;
    return lead > (2 * bytes > kEnough ? 2 * bytes : kEnough) ? even * 3 / 4 : even + 1;
  }

  [[gnu::always_inline]] void advance(int64_t bytes) {
    asked += bytes;
    if (asked < pieces[asking].bytes || asking + 1 >= count) return;
    asked = 0;
    ++asking;
  }
};

}  // namespace baton::kernels::cpu
