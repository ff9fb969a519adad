#include "cli/cluster/incarnation.h"

#include <algorithm>
#include <charconv>

#include "base/cat.h"

namespace baton::cli {
namespace {

// Beyond this a number is damage (or somebody's joke): the year 5138, in ms.
constexpr uint64_t kLargest = 100'000'000'000'000;

std::string file_of(const Home& home, const std::string& worker) {
  return home.file(cat("incarnation.", worker));
}

uint64_t largest_life(const Home& home, const std::string& worker) {
  const std::string text = read_file(file_of(home, worker)).value_or("");
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number < kLargest ? number : 0;
}

}  // namespace

absl::Status remember_life(const Home& home, const std::string& worker, Incarnation number) {
  if (number.value() <= largest_life(home, worker)) return absl::OkStatus();
  RETURN_IF_ERROR(home.make_directories());
  return write_file(file_of(home, worker), cat(number.value(), "\n"));
}

NewLife new_life(const Home& home, const std::string& worker, uint64_t wall) {
  const Incarnation number(std::max(wall, largest_life(home, worker) + 1));
  return {number, remember_life(home, worker, number)};
}

}  // namespace baton::cli
