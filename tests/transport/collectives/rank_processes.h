#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>

#include "base/cat.h"
#include "tests/support/end_with.h"
#include "tests/support/network_hosts.h"
#include "tests/transport/collectives/rank_threads.h"
#include "transport/collectives/form_group.h"
#include "transport/collectives/life_line.h"

namespace baton {

// A rank as a process of its own; it says lines, the test reads them. Killed and waited for at the end.
class RankProcess {
 public:
  using Say = std::function<void(const std::string&)>;

  // On a host of `hosts`, or on this machine as it is (nullptr).
  RankProcess(const std::function<void(const Say&)>& body, const NetworkHosts* hosts = nullptr,
              int host = 0) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    out_ = OwnedFd(ends[0]);
    const auto child = [&] {
      ::close(ends[0]);
      body([&](const std::string& line) {
        const std::string text = line + "\n";
        if (::write(ends[1], text.data(), text.size()) < 0) ::_exit(3);
      });
      return 0;
    };
    if (hosts != nullptr) {
      pid_ = hosts->fork_inside(host, child);
    } else {
      const pid_t parent = ::getpid();
      pid_ = ::fork();
      if (pid_ == 0) ::_exit(end_with(parent) ? child() : 126);
    }
    ::close(ends[1]);
  }
  ~RankProcess() {
    signal(SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  RankProcess(const RankProcess&) = delete;

  void signal(int number) const { ::kill(pid_, number); }
  // The next line; "" when the process has ended or said nothing for a minute.
  std::string line() {
    for (;;) {
      if (const size_t end = bytes_.find('\n'); end != std::string::npos) {
        std::string first = bytes_.substr(0, end);
        bytes_.erase(0, end + 1);
        return first;
      }
      pollfd entry{.fd = out_.get(), .events = POLLIN, .revents = 0};
      char bytes[4096];
      if (::poll(&entry, 1, 60'000) <= 0) return "";
      const ssize_t n = ::read(out_.get(), bytes, sizeof bytes);
      if (n <= 0) return "";
      bytes_.append(bytes, static_cast<size_t>(n));
    }
  }

 private:
  pid_t pid_ = -1;
  OwnedFd out_;
  std::string bytes_;
};

}  // namespace baton
