#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "transport/messages/messages.h"

namespace baton::transport {

// Collects the first thing wrong with a decoded message. Each check hands its value on, or a harmless one
// when it was wrong, so that decoders are plain assignments and look at status() once, at the end. scope()
// names the message that fields belong to: {"submit", "request"} gives "submit.request.top_p: ...". Thread:
// owner.
class FieldCheck {
 public:
  class Scope {
   public:
    Scope(FieldCheck& check, const char* name) : check_(check), length_(check.path_.size()) {
      absl::StrAppend(&check.path_, name, ".");
    }
    ~Scope() { check_.path_.resize(length_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    FieldCheck& check_;
    const size_t length_;
  };
  [[nodiscard]] Scope scope(const char* name) { return Scope(*this, name); }

  // NaN is outside every range.
  template <class T>
  T in_range(const char* field, T value, std::type_identity_t<T> low, std::type_identity_t<T> high) {
    if (value >= low && value <= high) return value;
    fail(field, absl::StrCat("want ", low, "..", high, ", got ", value));
    return low;
  }
  template <class T>
  T at_least(const char* field, T value, std::type_identity_t<T> low) {
    return in_range(field, value, low, std::numeric_limits<T>::max());
  }
  double finite(const char* field, double value) {
    return in_range(field, value, std::numeric_limits<double>::lowest(), std::numeric_limits<double>::max());
  }
  // Log-probabilities of masked tokens are -inf.
  float not_nan(const char* field, float value) {
    if (!std::isnan(value)) return value;
    fail(field, "want a number, got NaN");
    return 0;
  }
  Duration duration(const char* field, int64_t nanoseconds) {
    return Duration(in_range(field, nanoseconds, 0, Duration(std::chrono::hours(24 * 365)).count()));
  }
  // `highest` is the last value of the plain enum.
  template <class E>
  E enumerator(const char* field, int value, E highest) {
    return static_cast<E>(in_range(field, value, 0, static_cast<int>(highest)));
  }
  std::string text(const char* field, const std::string& value, size_t max_bytes);
  // [A-Za-z0-9._-]+ ; empty only when `may_be_empty`.
  std::string name(const char* field, const std::string& value, size_t max_bytes, bool may_be_empty = false);
  // True when `size` <= `most`.
  bool size(const char* field, int size, int most) {
    if (size <= most) return true;
    fail(field, absl::StrCat("want at most ", most, " entries, got ", size));
    return false;
  }
  void fail(const char* field, const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(path_, field, ": ", what));
  }

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  std::string path_;
  absl::Status status_;
};

}  // namespace baton::transport
