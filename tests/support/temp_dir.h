#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/check.h"

namespace baton::support {

// A folder of its own for a test, removed at the end. It is locked while its process lives, so what a killed
// test left is known and goes when the next one makes a folder. Thread: one. Errors: aborts.
class TempDir {
 public:
  explicit TempDir(const std::string& name) {
    static const bool swept = sweep();
    std::string pattern = (std::filesystem::temp_directory_path() / (kPrefix + name + "-XXXXXX")).string();
    BATON_CHECK(swept && ::mkdtemp(pattern.data()) != nullptr, pattern.c_str());
    path_ = pattern;
    lock_ = ::open(pattern.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    BATON_CHECK(lock_ >= 0 && ::flock(lock_, LOCK_EX | LOCK_NB) == 0, pattern.c_str());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    ::close(lock_);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

 private:
  static constexpr const char* kPrefix = "baton-test-";

  // A minute old: one that was just made has no lock yet.
  static bool sweep() {
    namespace fs = std::filesystem;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(fs::temp_directory_path(), ignored)) {
      if (!entry.path().filename().string().starts_with(kPrefix)) continue;
      const auto age = fs::file_time_type::clock::now() - entry.last_write_time(ignored);
      const int left = ::open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (left < 0) continue;
      if (age > std::chrono::minutes(1) && ::flock(left, LOCK_EX | LOCK_NB) == 0)
        fs::remove_all(entry.path(), ignored);
      ::close(left);
    }
    return true;
  }

  std::filesystem::path path_;
  int lock_ = -1;
};

}  // namespace baton::support
