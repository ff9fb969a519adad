#include "cli/bench/remote_receiver.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/cat.h"
#include "cli/bench/transfer_baselines.h"
#include "cli/bench/transfer_lane.h"
#include "cli/cluster/cores.h"
#include "cli/cluster/host_address.h"
#include "cli/cluster/version.h"
#include "transport/data/data_plane.h"
#include "transport/data/socket_address.h"

namespace baton::cli {
namespace {

using transport::SocketAddress;

constexpr size_t kMostLine = 1024;
constexpr size_t kMostReceivers = 8;  // of one caller
constexpr int kAnswerSeconds = 90;    // a pool of some GB is touched meanwhile
constexpr int kGreetingSeconds = 5;
constexpr int kCallerSeconds = 600;  // between two orders of a caller: a measurement

std::string greeting() { return cat("baton-transfer ", kVersion); }

void set_patience(int descriptor, int seconds) {
  const timeval limit{.tv_sec = seconds, .tv_usec = 0};
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO})
    (void)::setsockopt(descriptor, SOL_SOCKET, option, &limit, sizeof limit);
}

void set(int descriptor, int level, int option, int value) {
  (void)::setsockopt(descriptor, level, option, &value, sizeof value);
}

absl::Status failed(const std::string& what) {
  return absl::UnavailableError(cat(what, ": ", std::strerror(errno)));
}

absl::StatusOr<SocketAddress> read_address(const std::string& text) {
  const auto host_port = split_host_port(text);
  if (!host_port) return absl::InvalidArgumentError(cat("want ADDRESS:PORT, got ", text));
  return transport::parse_address(host_port->host, static_cast<uint16_t>(host_port->port));
}

bool say(int descriptor, const std::string& line) {
  const std::string text = line + "\n";
  return ::send(descriptor, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

// nullopt: the other side has left, says too much, or nothing in time.
std::optional<std::string> hear(int descriptor) {
  std::string line;
  while (line.size() < kMostLine) {
    char c = 0;
    const ssize_t n = ::recv(descriptor, &c, 1, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    if (c == '\n') return line;
    line += c;
  }
  return std::nullopt;
}

class RemoteReceiver final : public MoveReceiver {
 public:
  RemoteReceiver(RemoteReceivers& there, std::string number, std::string address)
      : there_(there), number_(std::move(number)), address_(std::move(address)) {}
  ~RemoteReceiver() override { there_.ask(cat("end ", number_)).status().IgnoreError(); }
  const std::string& address() const override { return address_; }
  double cpu_seconds() const override {
    const auto said = there_.ask(cat("cpu ", number_));
    double seconds = 0;
    return said.ok() && absl::SimpleAtod(*said, &seconds) ? seconds : 0;
  }

 private:
  RemoteReceivers& there_;
  const std::string number_;
  const std::string address_;
};

// What one caller has started.
class Caller {
 public:
  Caller(int descriptor, std::string host, uint64_t most_pool_bytes)
      : descriptor_(descriptor), host_(std::move(host)), most_pool_bytes_(most_pool_bytes) {}
  void serve() {
    set_patience(descriptor_, kGreetingSeconds);
    const auto hello = hear(descriptor_);
    set_patience(descriptor_, kCallerSeconds);
    if (!hello || !say(descriptor_,
                       *hello == greeting() ? "ok" : cat("error here is ", greeting(), ", there ", *hello)))
      return;
    while (const auto line = hear(descriptor_)) {
      const auto answer = obey(absl::StrSplit(*line, ' '));
      if (!say(descriptor_, answer.ok() ? *answer : cat("error ", std::string(answer.status().message()))))
        return;
    }
  }

 private:
  absl::StatusOr<std::string> obey(const std::vector<std::string>& words) {
    if (words.size() == 4 && words[0] == "start") return start(words);
    uint32_t number = 0;
    const bool known =
        words.size() == 2 && absl::SimpleAtoi(words[1], &number) && receivers_.contains(number);
    if (known && words[0] == "cpu") return cat("ok ", receivers_.at(number)->cpu_seconds());
    if (!known || words[0] != "end") return absl::InvalidArgumentError("not understood");
    receivers_.erase(number);
    return "ok";
  }
  absl::StatusOr<std::string> start(const std::vector<std::string>& words) {
    ReceiverOrder order{.kind = words[1], .checksum = words[3] == "1"};
    if (!absl::SimpleAtoi(words[2], &order.pool_bytes) || order.pool_bytes < transport::kPoolAlignment ||
        order.pool_bytes > most_pool_bytes_)
      return absl::InvalidArgumentError(
          cat("a pool of ", words[2], " bytes: ", most_pool_bytes_, " at most here (--pool-mib)"));
    if (receivers_.size() == kMostReceivers) return absl::ResourceExhaustedError("too many at once");
    if (order.kind != "rawsocket" && !goes_between_machines(order.kind))
      return absl::InvalidArgumentError(cat("lane ", order.kind, ": not between two machines"));
    const std::vector<int> cores = allowed_cores().cpus;
    ASSIGN_OR_RETURN(auto receiver,
                     fork_receiver(order.kind == "rawsocket" ? raw_socket_pair(order.pool_bytes, host_)
                                                             : lane_pair({.lane = order.kind,
                                                                          .pool_bytes = order.pool_bytes,
                                                                          .checksum = order.checksum,
                                                                          .receiver = host_}),
                                   {.core = cores.size() > 1 ? cores[1] : -1}));
    const uint32_t number = next_++;
    std::string answer = cat("ok ", number, " ", receiver->address());
    receivers_[number] = std::move(receiver);
    return answer;
  }

  const int descriptor_;
  const std::string host_;  // that receivers listen on
  const uint64_t most_pool_bytes_;
  std::map<uint32_t, std::unique_ptr<MoveReceiver>> receivers_;
  uint32_t next_ = 0;
};

}  // namespace

// ---- here

absl::StatusOr<std::unique_ptr<RemoteReceivers>> RemoteReceivers::connect(const std::string& address) {
  ASSIGN_OR_RETURN(const SocketAddress to, read_address(address));
  std::unique_ptr<RemoteReceivers> made(new RemoteReceivers);
  made->descriptor_ = ::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  set_patience(made->descriptor_, kAnswerSeconds);
  if (made->descriptor_ < 0 || ::connect(made->descriptor_, to.get(), to.size) != 0)
    return failed(cat("no `baton bench transfer --serve` at ", address));
  set(made->descriptor_, IPPROTO_TCP, TCP_NODELAY, 1);
  SocketAddress own;
  own.size = sizeof own.storage;
  std::array<char, NI_MAXHOST> host{};
  if (::getsockname(made->descriptor_, own.get(), &own.size) != 0 ||
      ::getnameinfo(own.get(), own.size, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST) != 0)
    return failed("own address");
  made->own_host_ = host.data();
  made->host_ = split_host_port(address)->host;
  RETURN_IF_ERROR(made->ask(greeting()).status());
  return made;
}

RemoteReceivers::~RemoteReceivers() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::StatusOr<std::string> RemoteReceivers::ask(const std::string& line) {
  auto answer = say(descriptor_, line) ? hear(descriptor_) : std::nullopt;
  if (!answer) return absl::UnavailableError(cat(host_, " does not answer any more"));
  if (*answer == "ok") return "";
  if (answer->starts_with("ok ")) return answer->substr(3);
  constexpr std::string_view kError = "error ";
  if (answer->starts_with(kError)) answer->erase(0, kError.size());
  return absl::UnavailableError(cat(host_, " says: ", *answer));
}

absl::StatusOr<std::unique_ptr<MoveReceiver>> RemoteReceivers::start(const ReceiverOrder& order) {
  ASSIGN_OR_RETURN(const std::string said,
                   ask(cat("start ", order.kind, " ", order.pool_bytes, " ", order.checksum ? 1 : 0)));
  const std::vector<std::string> words = absl::StrSplit(said, ' ');
  if (words.size() != 2) return absl::UnavailableError(cat(host_, " says: ", said));
  return std::make_unique<RemoteReceiver>(*this, words[0], words[1]);
}

// ---- there

absl::Status serve_receivers(const ServeReceiversOptions& options) {
  ASSIGN_OR_RETURN(SocketAddress at, read_address(options.address));
  const std::string host = split_host_port(options.address)->host;
  if (is_wildcard_host(host))
    return absl::InvalidArgumentError(cat(
        "--serve ", options.address, ": want one address of this machine, which the other one can reach"));
  if (!is_loopback_host(host) && !options.insecure_plaintext)
    return absl::InvalidArgumentError(
        cat("--serve ", options.address,
            ": whoever reaches this address may start receivers, in plain: add "
            "--insecure-allow-plaintext-off-loopback if its network is private"));
  const int listener = ::socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
  if (listener < 0 || ::bind(listener, at.get(), at.size) != 0 || ::listen(listener, 1) != 0 ||
      ::getsockname(listener, at.get(), &at.size) != 0)
    return failed(cat("listen on ", options.address));
  const std::string address = transport::join_address(host, at.port());
  if (options.listening) options.listening(address);
  std::fprintf(stderr, "receives for `baton bench transfer --to %s`, until it is ended (Ctrl-C)\n",
               address.c_str());
  while (true) {
    SocketAddress from;
    from.size = sizeof from.storage;
    const int caller = ::accept4(listener, from.get(), &from.size, SOCK_CLOEXEC);
    if (caller < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (caller < 0) return failed("accept");
    std::array<char, NI_MAXHOST> name{};
    (void)::getnameinfo(from.get(), from.size, name.data(), name.size(), nullptr, 0, NI_NUMERICHOST);
    std::fprintf(stderr, "%s measures\n", name.data());
    set(caller, IPPROTO_TCP, TCP_NODELAY, 1);
    Caller(caller, host, options.most_pool_bytes).serve();
    ::close(caller);
    std::fprintf(stderr, "%s is done\n", name.data());
  }
}

}  // namespace baton::cli
