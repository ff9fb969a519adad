#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/collectives/rank_stream.h"

namespace baton {

// What ranks say to each other while they form a group: a list of short texts. On the wire: u32 length of the
// rest, then for each text u16 length and bytes, little-endian. At most kMostBytes.
class GroupFrame {
 public:
  static constexpr size_t kMostBytes = 16384;

  GroupFrame() = default;
  explicit GroupFrame(std::vector<std::string> words) : words_(std::move(words)) {}

  const std::vector<std::string>& words() const { return words_; }
  absl::Status write(RankStream& to, Instant deadline) const;
  static absl::StatusOr<GroupFrame> read(RankStream& from, Instant deadline);
  // Takes the first frame out of `bytes`; false while it is not complete. An error: not a frame.
  static absl::StatusOr<bool> take(std::string& bytes, GroupFrame& frame);

 private:
  static absl::StatusOr<GroupFrame> decode(std::string_view body);
  std::vector<std::string> words_;
};

}  // namespace baton
