#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cpu/weights_ahead.h"

namespace baton::kernels::cpu {

// Learns in which order a thread reads weights: as in the step before. What it asks memory for is a guess
// that costs time when it is wrong and nothing else. One thread's, on lines of its own.
class alignas(64) WeightOrder {
 public:
  // Room for so many more pieces: a step allocates nothing. Between steps.
  void make_room(size_t pieces) { pieces_.reserve(pieces_.capacity() + pieces); }
  void begin_step();
  // The thread reads these weights now. Good until the next call; none when there is no room.
  WeightsAhead* enter(const std::byte* begin, int64_t bytes);
  // Asks for some of the weights that come next.
  void ask_more(int lines) { ahead_.ask_more(lines); }

 private:
  void learn(const std::byte* begin, int64_t bytes);

  std::vector<WeightPiece> pieces_;
  size_t next_ = 0;  // of pieces_
  WeightsAhead ahead_;
};

}  // namespace baton::kernels::cpu
