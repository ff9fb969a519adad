#pragma once

#include <charconv>
#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "base/ids.h"
#include "base/status.h"

namespace baton {

inline constexpr const char* kLifeOverPayload = "baton/life-over";

// kFailedPrecondition: lives of a worker up to `youngest` are over. The number travels with the status, so
// that a worker whose clock is behind knows which number its next life needs.
inline absl::Status life_over(const std::string& why, Incarnation youngest) {
  absl::Status status = absl::FailedPreconditionError(why);
  status.SetPayload(kLifeOverPayload, absl::Cord(std::to_string(youngest.value())));
  return status;
}

inline std::optional<Incarnation> youngest_life_over(const absl::Status& status) {
  const auto payload = status.GetPayload(kLifeOverPayload);
  if (!payload) return std::nullopt;
  const std::string text(*payload);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return Incarnation(number);
}

}  // namespace baton
