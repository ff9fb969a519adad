#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace baton::sim {

// Everything that happened, one line an event. Only its hash is kept (FNV-1a over all bytes), so that two
// runs can be compared; with BATON_SIM_LOG=FILE the lines of the last run are written out as well.
class EventLog {
 public:
  EventLog() {
    if (const char* path = std::getenv("BATON_SIM_LOG")) file_ = std::fopen(path, "w");
  }
  ~EventLog() {
    if (file_ != nullptr) std::fclose(file_);
  }
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  template <class... Parts>
  void line(Instant now, const Parts&... parts) {
    scratch_.clear();
    absl::StrAppend(&scratch_, now.time_since_epoch().count(), " ");
    // One part at a time: StrAppend takes a bounded number of them.
    (absl::StrAppend(&scratch_, parts), ...);
    scratch_.push_back('\n');
    for (const char c : scratch_) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    ++lines_;
    if (file_ != nullptr) std::fwrite(scratch_.data(), 1, scratch_.size(), file_);
  }
  uint64_t hash() const { return hash_; }
  uint64_t lines() const { return lines_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325u;
  uint64_t lines_ = 0;
  std::string scratch_;
  std::FILE* file_ = nullptr;
};

}  // namespace baton::sim
