#include "transport/collectives/group_frame.h"

#include <cstdint>
#include <cstring>

#include "base/cat.h"

namespace baton {
namespace {

template <class Number>
void put(std::string& out, Number value) {
  for (size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

template <class Number>
Number get(std::string_view bytes) {
  Number value = 0;
  for (size_t i = 0; i < sizeof value; ++i)
    value |= static_cast<Number>(static_cast<Number>(static_cast<uint8_t>(bytes[i])) << (8 * i));
  return value;
}

absl::Status not_a_frame() { return absl::InvalidArgumentError("not a frame of a group"); }

}  // namespace

absl::Status GroupFrame::write(RankStream& to, Instant deadline) const {
  std::string body;
  for (const std::string& word : words_) {
    put(body, static_cast<uint16_t>(word.size()));
    body += word;
  }
  if (body.size() > kMostBytes) return absl::InvalidArgumentError(cat("a frame of ", body.size(), " bytes"));
  std::string out;
  put(out, static_cast<uint32_t>(body.size()));
  out += body;
  return to.write_all(std::as_bytes(std::span(out)), deadline);
}

absl::StatusOr<GroupFrame> GroupFrame::read(RankStream& from, Instant deadline) {
  char head[4];
  RETURN_IF_ERROR(from.read_exactly(std::as_writable_bytes(std::span(head)), deadline));
  const auto size = get<uint32_t>(std::string_view(head, 4));
  if (size > kMostBytes) return not_a_frame();
  std::string body(size, '\0');
  RETURN_IF_ERROR(from.read_exactly(std::as_writable_bytes(std::span(body)), deadline));
  return decode(body);
}

absl::StatusOr<bool> GroupFrame::take(std::string& bytes, GroupFrame& frame) {
  if (bytes.size() < 4) return false;
  const auto size = get<uint32_t>(bytes);
  if (size > kMostBytes) return not_a_frame();
  if (bytes.size() < 4 + size) return false;
  ASSIGN_OR_RETURN(frame, decode(std::string_view(bytes).substr(4, size)));
  bytes.erase(0, 4 + size);
  return true;
}

absl::StatusOr<GroupFrame> GroupFrame::decode(std::string_view body) {
  GroupFrame frame;
  while (!body.empty()) {
    if (body.size() < 2) return not_a_frame();
    const auto size = get<uint16_t>(body);
    if (body.size() < size_t{2} + size) return not_a_frame();
    frame.words_.emplace_back(body.substr(2, size));
    body.remove_prefix(size_t{2} + size);
  }
  return frame;
}

}  // namespace baton
