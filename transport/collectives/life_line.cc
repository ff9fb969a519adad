#include "transport/collectives/life_line.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/cat.h"

namespace baton {

void OwnedFd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

absl::StatusOr<OwnedFd> OwnedFd::duplicate() const {
  const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return absl::ResourceExhaustedError(cat("duplicate a descriptor: ", std::strerror(errno)));
  return OwnedFd(copy);
}

absl::StatusOr<LifeLine> LifeLine::make() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)  // not inherited: a child would keep its dead parent's line whole
    return absl::ResourceExhaustedError(cat("pipe: ", std::strerror(errno)));
  return LifeLine{.held = OwnedFd(ends[1]), .watched = OwnedFd(ends[0])};
}

bool line_is_cut(int watched) {
  pollfd entry{.fd = watched, .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

}  // namespace baton
