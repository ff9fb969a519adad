#pragma once

#include <string>
#include <vector>

namespace baton::transport {

// Notices that files are other ones, or were written to, since it last looked: certificates and keys are
// renewed while a process runs, most often by a link that comes to point elsewhere. Thread: one. A file that
// is not there counts as a version, too.
class WatchedFiles {
 public:
  explicit WatchedFiles(std::vector<std::string> paths) : paths_(std::move(paths)), seen_(versions()) {}
  bool changed();

 private:
  std::string versions() const;
  std::vector<std::string> paths_;
  std::string seen_;
};

}  // namespace baton::transport
