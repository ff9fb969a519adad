#include "cli/bench/measured_pair.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <thread>

#include "base/cat.h"
#include "base/clock.h"

namespace baton::cli {
namespace {

constexpr size_t kAddressBytes = 128;
constexpr int kReadySeconds = 60;  // until a receiver has touched its pool

template <class T>
bool read_all(int fd, T& value) {
  auto* at = reinterpret_cast<char*>(&value);
  for (size_t got = 0; got < sizeof value;) {
    const ssize_t n = ::read(fd, at + got, sizeof value - got);
    if (n <= 0) return false;
    got += static_cast<size_t>(n);
  }
  return true;
}

template <class T>
bool write_all(int fd, const T& value) {
  return ::write(fd, &value, sizeof value) == static_cast<ssize_t>(sizeof value);
}

absl::StatusOr<int> open_network(const std::string& name) {
  if (name.empty()) return -1;
  const std::string path = name.find('/') == std::string::npos ? "/run/netns/" + name : name;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::InvalidArgumentError(cat("network namespace ", path, ": ", std::strerror(errno)));
  return fd;
}

// With a /sys that shows its interfaces: UCX reads it.
void enter_network(int network) {
  const bool inside = ::setns(network, CLONE_NEWNET) == 0 && ::unshare(CLONE_NEWNS) == 0 &&
                      ::mount("", "/", "none", MS_SLAVE | MS_REC, nullptr) == 0 &&
                      ::mount("sysfs", "/sys", "sysfs", 0, nullptr) == 0;
  if (inside) return;
  std::fprintf(stderr, "bench transfer: entering a network namespace, which root may: %s\n",
               std::strerror(errno));
  ::_exit(1);
}

void settle(int core, int network) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (network >= 0) enter_network(network);
  if (core < 0) return;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(static_cast<size_t>(core), &cores);
  ::sched_setaffinity(0, sizeof cores, &cores);
}

double cpu_seconds_of(pid_t process) {
  clockid_t clock;
  timespec time{};
  if (::clock_getcpuclockid(process, &clock) != 0 || ::clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void end(pid_t& process) {
  if (process <= 0) return;
  ::kill(process, SIGKILL);
  ::waitpid(process, nullptr, 0);
  process = -1;
}

class LocalReceiver final : public MoveReceiver {
 public:
  LocalReceiver(pid_t process, std::string address) : process_(process), address_(std::move(address)) {}
  ~LocalReceiver() override { end(process_); }
  const std::string& address() const override { return address_; }
  double cpu_seconds() const override { return cpu_seconds_of(process_); }

 private:
  pid_t process_;
  const std::string address_;
};

}  // namespace

bool MovePipe::next(MoveOrder& order) const { return read_all(orders_, order); }
void MovePipe::done(double seconds) const {
  if (!write_all(results_, seconds)) ::_exit(1);
}

absl::StatusOr<std::unique_ptr<MoveReceiver>> fork_receiver(const MovePair& pair, const MovePlace& place) {
  ASSIGN_OR_RETURN(const int network, open_network(place.network));
  int addresses[2];
  if (::pipe2(addresses, O_CLOEXEC) != 0) return absl::UnavailableError("no pipe");
  const pid_t process = ::fork();
  if (process == 0) {
    settle(place.core, network);
    ::close(addresses[0]);
    pair.receiver([&](const std::string& address) {
      std::array<char, kAddressBytes> text{};
      std::memcpy(text.data(), address.data(), std::min(address.size(), text.size() - 1));
      if (!write_all(addresses[1], text)) ::_exit(1);
    });
    ::_exit(0);
  }
  if (network >= 0) ::close(network);
  ::close(addresses[1]);
  std::array<char, kAddressBytes> address{};
  pollfd said{.fd = addresses[0], .events = POLLIN, .revents = 0};
  const bool ready =
      process > 0 && ::poll(&said, 1, kReadySeconds * 1000) > 0 && read_all(addresses[0], address);
  ::close(addresses[0]);
  auto receiver = std::make_unique<LocalReceiver>(process, address.data());
  if (!ready) return absl::UnavailableError("the receiving process did not start");
  return receiver;
}

absl::StatusOr<std::unique_ptr<MeasuredPair>> MeasuredPair::start(const MovePair& pair,
                                                                  const MovePlace& sender,
                                                                  std::unique_ptr<MoveReceiver> receiver) {
  std::unique_ptr<MeasuredPair> made(new MeasuredPair(std::move(receiver)));
  std::signal(SIGPIPE, SIG_IGN);  // an order to a process that died is an error
  ASSIGN_OR_RETURN(const int network, open_network(sender.network));
  int orders[2], results[2];
  if (::pipe2(orders, O_CLOEXEC) != 0 || ::pipe2(results, O_CLOEXEC) != 0)
    return absl::UnavailableError("no pipes");
  made->sender_ = ::fork();
  if (made->sender_ == 0) {
    settle(sender.core, network);
    ::close(orders[1]);
    ::close(results[0]);
    pair.sender(MovePipe(orders[0], results[1]), made->receiver_->address());
    ::_exit(0);
  }
  if (network >= 0) ::close(network);
  ::close(orders[0]);
  ::close(results[1]);
  made->orders_ = orders[1];
  made->results_ = results[0];
  if (made->sender_ < 0) return absl::UnavailableError("the sending process did not start");
  return made;
}

MeasuredPair::~MeasuredPair() {
  for (const int fd : {orders_, results_})
    if (fd >= 0) ::close(fd);
  end(sender_);
}

std::string MeasuredPair::congestion_control(const std::string& network) {
  const absl::StatusOr<int> space = open_network(network);
  if (!space.ok()) return "";
  std::string name;
  // A thread of its own goes there and ends.
  std::thread([&] {
    if (*space < 0 || ::setns(*space, CLONE_NEWNET) == 0)
      std::ifstream("/proc/sys/net/ipv4/tcp_congestion_control") >> name;
  }).join();
  if (*space >= 0) ::close(*space);
  return name;
}

double MeasuredPair::cpu_seconds() const { return cpu_seconds_of(sender_) + receiver_->cpu_seconds(); }

absl::StatusOr<MoveResult> MeasuredPair::move(const MoveOrder& order) {
  MoveResult result;
  const double before = cpu_seconds();
  if (!write_all(orders_, order) || !read_all(results_, result.seconds))
    return absl::UnavailableError("a process died");
  result.cpu_seconds = cpu_seconds() - before;
  return result;
}

}  // namespace baton::cli
