#pragma once

namespace baton {

// Prints `file:line: CHECK failed: what: message` to stderr and aborts. A broken invariant ends the process:
// the supervisor restarts it, the cluster lives on (docs/adr/0001-errors.md).
[[noreturn]] void check_failed(const char* file, int line, const char* what, const char* message = "");

}  // namespace baton

// On in every build. For what the program itself guarantees; input from outside gets an absl::Status.
#define BATON_CHECK(condition, ...) \
  ((condition) ? (void)0 : ::baton::check_failed(__FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__))
