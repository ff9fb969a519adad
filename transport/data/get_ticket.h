#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace baton::transport {

// What a peer needs to read my pool file one-sidedly: where it lies in my address space, and two texts of
// UCX. It is said once, in the hello, and is the only place where a memory address travels; offers name
// offsets, which are checked against `bytes`.
struct GetTicket {
  uint64_t base = 0;    // page aligned
  uint64_t bytes = 0;   // the pool file
  std::string address;  // of the UCX worker
  std::string key;      // of the memory
};

inline constexpr size_t kMaxUcxAddress = 2048;
inline constexpr size_t kMaxUcxKey = 1024;

std::string encode_ticket(const GetTicket& ticket);
// Errors: anything but what encode_ticket() made. UCX reads its texts without a length, so a sum guards them
// against truncation and damage; against a peer that lies on purpose nothing does (docs/adr/0016).
absl::StatusOr<GetTicket> decode_ticket(std::span<const std::byte> bytes);

}  // namespace baton::transport
