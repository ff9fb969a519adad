#include "coordinator/gateway/api_keys.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

#include "absl/strings/ascii.h"
#include "base/cat.h"

namespace baton::coordinator {
namespace {

constexpr std::string_view kPrefix = "sha256:";
constexpr size_t kMostKeys = 100'000;
constexpr size_t kShownMistakes = 20;
constexpr char kHex[] = "0123456789abcdef";

// The words of a line, without its comment.
std::vector<std::string_view> words_of(std::string_view line) {
  line = line.substr(0, line.find('#'));
  std::vector<std::string_view> out;
  constexpr std::string_view kSpace = " \t\r";
  for (size_t at = 0; (at = line.find_first_not_of(kSpace, at)) != line.npos;) {
    const size_t end = std::min(line.find_first_of(kSpace, at), line.size());
    out.push_back(line.substr(at, end - at));
    at = end;
  }
  return out;
}

}  // namespace

ApiKeys::Hash ApiKeys::hash_of(std::string_view key) {
  Hash out;
  ::SHA256(reinterpret_cast<const uint8_t*>(key.data()), key.size(), out.data());
  return out;
}

bool ApiKeys::insert(const Hash& hash, KeyOwner owner) {
  return owners_.emplace(hash, std::move(owner)).second;
}

void ApiKeys::add(std::string_view key, KeyOwner owner) { insert(hash_of(key), std::move(owner)); }

const KeyOwner* ApiKeys::find(std::string_view key) const {
  const auto it = owners_.find(hash_of(key));
  return it == owners_.end() ? nullptr : &it->second;
}

bool ApiKeys::is_tenant(std::string_view name) {
  return !name.empty() && name.size() <= 63 && std::ranges::all_of(name, [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}

std::string ApiKeys::make(const std::function<uint64_t()>& random) {
  std::string key = "baton-";
  for (int word = 0; word < 4; ++word) {
    char hex[20];
    std::snprintf(hex, sizeof hex, "%016" PRIx64, random());
    key += hex;
  }
  return key;
}

std::string ApiKeys::line_of(std::string_view key, const KeyOwner& owner) {
  const Hash hash = hash_of(key);
  std::string hex;
  for (const uint8_t byte : hash) {
    hex += kHex[byte >> 4];
    hex += kHex[byte & 15];
  }
  return cat(owner.tenant, " ", kPrefix, hex, owner.is_operator ? " operator" : "");
}

// "sha256:" and 64 hex digits.
std::optional<ApiKeys::Hash> ApiKeys::hash_from(std::string_view word) {
  Hash out;
  if (!word.starts_with(kPrefix) || word.size() != kPrefix.size() + 2 * out.size()) return std::nullopt;
  word.remove_prefix(kPrefix.size());
  for (size_t i = 0; i < word.size(); ++i) {
    const char* digit = std::strchr(kHex, absl::ascii_tolower(static_cast<unsigned char>(word[i])));
    if (word[i] == 0 || digit == nullptr) return std::nullopt;
    uint8_t& byte = out[i / 2];
    byte = static_cast<uint8_t>((i % 2 == 0 ? 0 : byte << 4) | (digit - kHex));
  }
  return out;
}

absl::StatusOr<ApiKeys> ApiKeys::parse(std::string_view text, std::string_view file) {
  ApiKeys out;
  std::vector<std::string> mistakes;
  int number = 0;
  // What was read is not repeated: a line may hold a key that somebody put there by mistake.
  const auto wrong = [&](std::string_view what) {
    if (mistakes.size() < kShownMistakes) mistakes.push_back(cat(file, ":", number, ": ", what));
  };
  while (!text.empty()) {
    ++number;
    const size_t end = std::min(text.find('\n'), text.size());
    const auto words = words_of(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.empty()) continue;
    if (!is_tenant(words[0])) {
      wrong("the tenant: want 1 to 63 letters, digits, '-', '_' or '.'");
      continue;
    }
    const auto hash = hash_from(words.size() > 1 ? words[1] : "");
    if (!hash) {
      wrong("want `TENANT sha256:<64 hex digits of the key's hash> [operator]`; `baton key` writes it");
      continue;
    }
    if (words.size() > 3 || (words.size() == 3 && words[2] != "operator")) {
      wrong("want nothing or `operator` behind the hash");
      continue;
    }
    if (!out.insert(*hash, {.tenant = std::string(words[0]), .is_operator = words.size() == 3}))
      wrong("this key stands in a line above, too");
    if (out.size() > kMostKeys)
      return absl::InvalidArgumentError(cat(file, ": more than ", kMostKeys, " keys"));
  }
  if (!mistakes.empty()) return absl::InvalidArgumentError(join(mistakes, "\n"));
  if (out.size() == 0)
    return absl::InvalidArgumentError(
        cat(file, ": has no key: `baton key ", file, " TENANT` makes one and writes its line"));
  return out;
}

}  // namespace baton::coordinator
