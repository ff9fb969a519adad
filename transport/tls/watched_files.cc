#include "transport/tls/watched_files.h"

#include <sys/stat.h>

#include <utility>

#include "base/cat.h"

namespace baton::transport {

std::string WatchedFiles::versions() const {
  std::string out;
  for (const std::string& path : paths_) {
    struct stat st{};
    if (::stat(path.c_str(), &st) != 0) st = {};
    out +=
        cat(st.st_dev, ".", st.st_ino, ".", st.st_size, ".", st.st_mtim.tv_sec, ".", st.st_mtim.tv_nsec, " ");
  }
  return out;
}

bool WatchedFiles::changed() {
  std::string now = versions();
  if (now == seen_) return false;
  seen_ = std::move(now);
  return true;
}

}  // namespace baton::transport
