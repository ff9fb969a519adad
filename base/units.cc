#include "base/units.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

namespace baton {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

// A non-negative decimal number followed by a unit of the table.
std::optional<double> parse_with_unit(std::string_view text, std::span<const Unit> units) {
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || !std::isfinite(number) || number < 0 || text.starts_with('-'))
    return std::nullopt;
  const std::string_view unit(end, text.data() + text.size() - end);
  for (const Unit& u : units)
    if (u.name == unit) return number * u.factor;
  return std::nullopt;
}

std::string format_scaled(double value, std::span<const Unit> units) {
  const Unit* chosen = &units.front();
  for (const Unit& u : units)
    if (value >= u.factor) chosen = &u;
  const double scaled = value / chosen->factor;
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, scaled < 999.5 ? "%.3g %.*s" : "%.0f %.*s", scaled,
                static_cast<int>(chosen->name.size()), chosen->name.data());
  return buffer;
}

}  // namespace

std::optional<uint64_t> parse_bytes(std::string_view text) {
  constexpr Unit kUnits[] = {{"", 1},     {"K", 1e3},     {"k", 1e3},        {"M", 1e6},     {"G", 1e9},
                             {"T", 1e12}, {"Ki", 1024.0}, {"Mi", 1048576.0}, {"Gi", 0x1p30}, {"Ti", 0x1p40}};
  const auto v = parse_with_unit(text, kUnits);
  if (!v || *v >= 0x1p63) return std::nullopt;
  return static_cast<uint64_t>(*v);
}

std::optional<Duration> parse_duration(std::string_view text) {
  constexpr Unit kUnits[] = {{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
  const auto v = parse_with_unit(text, kUnits);
  if (!v || *v >= 0x1p62) return std::nullopt;
  return Duration(static_cast<int64_t>(*v));
}

std::string format_bytes(uint64_t bytes) {
  constexpr Unit kUnits[] = {{"B", 1}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
  return format_scaled(static_cast<double>(bytes), kUnits);
}

std::string format_duration(Duration duration) {
  constexpr Unit kUnits[] = {{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
  return format_scaled(static_cast<double>(duration.count()), kUnits);
}

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace baton
