#include "cli/cluster/process.h"

#include <sys/random.h>
#include <time.h>

#include <csignal>
#include <cstdlib>
#include <ctime>

#include "base/check.h"

namespace baton::cli {
namespace {

sigset_t end_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void block_end_signals() {
  const sigset_t set = end_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  ::setenv("GRPC_VERBOSITY", "NONE", 0);  // what went wrong is said once, by us
}

int wait_for_signal(Duration limit) {
  const sigset_t set = end_signals();
  const timespec time{.tv_sec = limit.count() / 1000000000, .tv_nsec = limit.count() % 1000000000};
  const int signal = ::sigtimedwait(&set, nullptr, &time);
  return signal > 0 ? signal : 0;
}

std::string log_file(const std::string& log_dir, const std::string& name) {
  return log_dir.empty() ? "" : log_dir + "/" + name + ".log";
}

std::function<uint64_t()> random_source() {
  return [] {
    uint64_t value = 0;
    BATON_CHECK(::getrandom(&value, sizeof value, 0) == sizeof value, "the kernel gives no random bytes");
    return value;
  };
}

std::function<int64_t()> unix_time_source() {
  return [] { return static_cast<int64_t>(std::time(nullptr)); };
}

}  // namespace baton::cli
