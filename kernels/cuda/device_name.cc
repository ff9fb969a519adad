#include "kernels/cuda/device_name.h"

#include <algorithm>
#include <charconv>

#include "base/cat.h"

namespace baton::kernels::cuda {
namespace {

bool is_uuid(std::string_view text) {
  if (!text.starts_with("GPU-") && !text.starts_with("MIG-")) return false;
  text.remove_prefix(4);
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '/';
  };
  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, plain);
}

}  // namespace

absl::StatusOr<DeviceName> DeviceName::parse(std::string_view device) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(cat("device \"", device, "\": want ", kWanted));
  };
  if (device == "cuda") return DeviceName{};
  if (!device.starts_with("cuda:")) return wrong();
  const std::string_view which = device.substr(5);
  if (is_uuid(which)) return DeviceName{.uuid = std::string(which)};
  DeviceName name;
  const auto [end, error] = std::from_chars(which.data(), which.data() + which.size(), name.index);
  if (error != std::errc() || end != which.data() + which.size() || name.index < 0) return wrong();
  return name;
}

}  // namespace baton::kernels::cuda
