// baton key: makes an API key and adds its line to a file of keys.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>

#include "absl/strings/ascii.h"
#include "base/cat.h"
#include "cli/cluster/home.h"
#include "cli/cluster/process.h"
#include "cli/commands.h"
#include "coordinator/gateway/api_keys.h"

namespace baton::cli {
namespace {

using coordinator::ApiKeys;

// Shorter ones can be found by trying.
constexpr size_t kShortestKey = 24;

int complain(const std::string& what, int code) {
  std::fprintf(stderr, "baton: %s\n", what.c_str());
  return code;
}

// In one write at the file's end, so that nobody who reads it meanwhile sees half a line.
absl::Status append(const std::string& path, const std::string& bytes) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  const ssize_t n = fd < 0 ? -1 : ::write(fd, bytes.data(), bytes.size());
  const int why = errno;
  if (fd >= 0) ::close(fd);
  if (n == static_cast<ssize_t>(bytes.size())) return absl::OkStatus();
  return absl::PermissionDeniedError(
      cat(path, ": cannot be written: ", n < 0 ? std::strerror(why) : "the disk is full"));
}

}  // namespace

int run_key(const KeyOptions& options) {
  if (!ApiKeys::is_tenant(options.tenant))
    return complain(cat("TENANT: want 1 to 63 letters, digits, '-', '_' or '.', got '", options.tenant, "'"),
                    kExitUsage);
  std::string key;
  if (options.from_stdin) {
    std::getline(std::cin, key);
    absl::StripAsciiWhitespace(&key);
    if (key.size() < kShortestKey || !std::ranges::all_of(key, absl::ascii_isgraph))
      return complain(cat("the key on standard input: want ", kShortestKey,
                          " characters at least, without spaces: one that nobody can guess"),
                      kExitUsage);
  } else {
    key = ApiKeys::make(random_source());
  }
  const coordinator::KeyOwner owner{.tenant = options.tenant, .is_operator = options.is_operator};
  const std::string text = read_file(options.file).value_or("");
  const bool cut = !text.empty() && !text.ends_with('\n');  // its last line
  const std::string line = cat(cut ? "\n" : "", ApiKeys::line_of(key, owner), "\n");
  // What the file will say: a coordinator would refuse it with the same words.
  if (const auto all = ApiKeys::parse(text + line, options.file); !all.ok())
    return complain(std::string(all.status().message()), kExitFailed);
  if (const absl::Status s = append(options.file, line); !s.ok())
    return complain(std::string(s.message()), kExitFailed);
  if (!options.from_stdin) std::printf("%s\n", key.c_str());
  std::fprintf(stderr, "%s: has the hash of %s key of %s; a coordinator that runs takes it within a second\n",
               options.file.c_str(), options.from_stdin ? "this" : "a new", options.tenant.c_str());
  return kExitOk;
}

}  // namespace baton::cli
