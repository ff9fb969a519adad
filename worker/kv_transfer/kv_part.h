#pragma once

namespace baton::worker {

// The part of a model's KV that one rank holds: layers [first_layer, end_layer) by KV heads [first_head,
// end_head), counted over the whole model. Its pool has these layers and heads and no others.
struct KvPart {
  int first_layer = 0;
  int end_layer = 0;
  int first_head = 0;
  int end_head = 0;
  int layers() const { return end_layer - first_layer; }
  int heads() const { return end_head - first_head; }
  bool empty() const { return first_layer >= end_layer || first_head >= end_head; }
  friend bool operator==(const KvPart&, const KvPart&) = default;
};

}  // namespace baton::worker
