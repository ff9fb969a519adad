#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/ids.h"

namespace baton::transport {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian, written as it lies");

// Fixed-width little-endian bytes. One describe(codec, message) per message serves both directions: number(),
// text() and list() append with ByteWriter and read with ByteReader, bounds included.
class ByteWriter {
 public:
  template <class T>
  void number(const T& value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <class Tag, class Rep>
  void id(const Id<Tag, Rep>& value) {
    number(value.value());
  }
  void text(const std::string& value, size_t /*max*/) {
    number(static_cast<uint32_t>(value.size()));
    bytes_ += value;
  }
  template <class T, class Each>
  void list(const std::vector<T>& values, size_t /*max*/, Each each) {
    number(static_cast<uint32_t>(values.size()));
    for (const T& value : values) each(*this, value);
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Never reads past the end and never allocates more than what is there: after the first misfit every value is
// 0 or empty and complete() is false.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class T>
  void number(T& value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    value = T{};
    if (!take(sizeof value)) return;
    if constexpr (std::is_same_v<T, bool>) {
      value = taken_[0] != std::byte{0};  // a bool made of any other byte would be undefined
    } else {
      std::memcpy(&value, taken_.data(), sizeof value);
    }
  }
  template <class Tag, class Rep>
  void id(Id<Tag, Rep>& value) {
    Rep raw{};
    number(raw);
    value = Id<Tag, Rep>(raw);
  }
  void text(std::string& value, size_t max) {
    uint32_t size = 0;
    number(size);
    value.clear();
    if (size > max) ok_ = false;
    if (take(size)) value.assign(reinterpret_cast<const char*>(taken_.data()), taken_.size());
  }
  // An entry is at least one byte long, so a count cannot exceed the bytes that are left.
  template <class T, class Each>
  void list(std::vector<T>& values, size_t max, Each each) {
    uint32_t count = 0;
    number(count);
    values.clear();
    if (count > max || count > rest_.size()) ok_ = false;
    if (!ok_) return;
    values.reserve(count);
    for (uint32_t i = 0; i < count && ok_; ++i) each(*this, values.emplace_back());
  }
  // Everything was there, and nothing is left over.
  bool complete() const { return ok_ && rest_.empty(); }
  bool ok() const { return ok_; }
  std::span<const std::byte> rest() const { return rest_; }

 private:
  bool take(size_t bytes) {
    if (!ok_ || bytes > rest_.size()) {
      ok_ = false;
      return false;
    }
    taken_ = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return true;
  }

  std::span<const std::byte> rest_;
  std::span<const std::byte> taken_;
  bool ok_ = true;
};

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace baton::transport
