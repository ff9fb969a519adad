#pragma once

#include <cstddef>
#include <cstdint>

// The tile registers of AMX (Intel's Architecture Instruction Set Extensions, chapter on AMX): eight
// registers of up to 16 rows of 64 bytes, and their integer product. Written as assembly, because the
// compiler's intrinsics want literal register numbers.
namespace baton::kernels::cpu::amx {

// What the tile registers of this thread hold: their rows and the bytes of a row.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

// While it lives, this thread's tile registers have these shapes; afterwards they hold nothing, so that the
// kernel has nothing of them to save.
class TilesInUse {
 public:
  [[gnu::always_inline]] explicit TilesInUse(const TileShapes& shapes) {
    asm volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
  }
  [[gnu::always_inline]] ~TilesInUse() { asm volatile("tilerelease" : : : "memory"); }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
};

template <int kTile>
[[gnu::always_inline]] inline void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
[[gnu::always_inline]] inline void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
[[gnu::always_inline]] inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

// sums += rows . outputs of signed bytes: sums [rows][16 outputs] in 32 bits, rows [rows][columns], outputs
// [columns / 4][16 outputs][4].
template <int kSums, int kRows, int kOutputs>
[[gnu::always_inline]] inline void add_product() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kRows), "i"(kOutputs));
}

}  // namespace baton::kernels::cpu::amx
