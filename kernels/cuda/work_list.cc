#include "kernels/cuda/work_list.h"

#include <algorithm>

namespace baton::kernels::cuda {
namespace {

constexpr int kWideRows = 64, kNarrowRows = 16;

struct Piece {
  int32_t begin, end;  // packed rows
  int32_t first_chunk, last_chunk;
};

Piece piece_of(const SequenceRows& rows, int32_t sequence_begin, int most, const WorkListShape& shape) {
  Piece p{.begin = sequence_begin, .end = std::min(sequence_begin + most, rows.row_count * shape.share)};
  const int32_t first = rows.first_position + p.begin / shape.share;
  const int32_t seen_from = shape.window > 0 ? std::max(0, first - shape.window + 1) : 0;
  p.first_chunk = seen_from / kChunkKeys;
  p.last_chunk = (rows.first_position + (p.end - 1) / shape.share) / kChunkKeys;
  return p;
}

}  // namespace

void WorkList::build(const StepBatch& batch, const WorkListShape& shape) {
  wide.clear();
  narrow.clear();
  merges.clear();
  int32_t slots = 0;
  for (int32_t s = 0; s < static_cast<int32_t>(batch.sequences.size()); ++s) {
    const SequenceRows& rows = batch.sequences[s];
    const int32_t packed = rows.row_count * shape.share;
    const bool few = packed <= kNarrowRows || rows.row_count == 1;
    for (int32_t begin = 0; begin < packed; begin += few ? kNarrowRows : kWideRows) {
      const Piece p = piece_of(rows, begin, few ? kNarrowRows : kWideRows, shape);
      const int32_t chunks = p.last_chunk - p.first_chunk + 1;
      for (int head = 0; head < shape.kv_heads; ++head) {
        AttentionItem item = {s, rows.first_row, p.begin, p.end, head, p.first_chunk, p.last_chunk, -1};
        if (!few || chunks == 1 || slots + chunks > shape.slots) {
          (few ? narrow : wide).push_back(item);
          continue;
        }
        merges.push_back({rows.first_row, p.begin, p.end, head, slots, chunks});
        for (int32_t c = p.first_chunk; c <= p.last_chunk; ++c) {
          item.first_chunk = item.last_chunk = c;
          item.slot = slots++;
          narrow.push_back(item);
        }
      }
    }
  }
}

}  // namespace baton::kernels::cuda
