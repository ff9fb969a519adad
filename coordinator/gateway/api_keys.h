#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"

namespace baton::coordinator {

// Whose key it is. Keys of one tenant are the same to everybody else: their requests share cached prefixes
// and count together.
struct KeyOwner {
  std::string tenant;
  bool is_operator = false;  // may call the operators' routes besides
};

// The keys that open a server, as their SHA-256 only: whoever reads the file has no key. One line each, "#"
// starts a comment, several keys of one tenant are good at once (for changing them without a pause):
//   TENANT sha256:<64 hex digits> [operator]
// A presented key is looked up by its hash, so how long that takes tells nothing about the keys there are.
// Thread: one. Errors of parse(): every line that is wrong, as file:line.
class ApiKeys {
 public:
  static absl::StatusOr<ApiKeys> parse(std::string_view text, std::string_view file);
  void add(std::string_view key, KeyOwner owner);
  const KeyOwner* find(std::string_view key) const;  // null: nobody's
  size_t size() const { return owners_.size(); }

  // A new key of 256 bits. `random`: 64 bits that nobody can guess.
  static std::string make(const std::function<uint64_t()>& random);
  // A line of the file, without its end.
  static std::string line_of(std::string_view key, const KeyOwner& owner);
  // What may stand in a file as a tenant: letters, digits, '-', '_', '.', 63 at most.
  static bool is_tenant(std::string_view name);

 private:
  using Hash = std::array<uint8_t, 32>;
  static Hash hash_of(std::string_view key);
  static std::optional<Hash> hash_from(std::string_view word);
  bool insert(const Hash& hash, KeyOwner owner);
  absl::flat_hash_map<Hash, KeyOwner> owners_;
};

}  // namespace baton::coordinator
