#include "transport/collectives/socket_exchange.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/cat.h"
#include "transport/collectives/own_pause.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr Duration kBetweenLooks = 50ms;

// The part of {header, bytes} behind the first `done`.
template <class Byte, class Header>
int parts(Header& header, std::span<Byte> bytes, size_t done, iovec out[2]) {
  int n = 0;
  if (done < sizeof header)
    out[n++] = {.iov_base = const_cast<char*>(reinterpret_cast<const char*>(&header)) + done,
                .iov_len = sizeof header - done};
  const size_t from = done < sizeof header ? 0 : done - sizeof header;
  if (from < bytes.size())
    out[n++] = {.iov_base = const_cast<std::byte*>(bytes.data()) + from, .iov_len = bytes.size() - from};
  return n;
}

}  // namespace

SocketExchange::SocketExchange(int rank, std::vector<RankStream> streams, Duration spin)
    : rank_(rank), streams_(std::move(streams)), spin_(spin), left_(streams_.size()) {}

bool SocketExchange::has_tls() const { return std::ranges::any_of(streams_, &RankStream::has_tls); }

absl::Status SocketExchange::run(Word word, std::span<const Outgoing> out, std::span<const Incoming> in,
                                 Instant deadline) {
  RETURN_IF_ERROR(broken_);
  word_ = static_cast<uint32_t>(word);
  sending_.clear();
  receiving_.clear();
  for (const Outgoing& o : out)
    sending_.push_back({.message = o, .header = {.word = word_, .culprit = 0, .bytes = o.bytes.size()}});
  for (const Incoming& i : in) receiving_.push_back({.message = i});
  Instant spin_until{};
  OwnPause pause(clock_.now());
  for (;;) {
    bool moved = false;
    bool finished = true;
    RETURN_IF_ERROR(advance_all(moved, finished));
    if (finished) return absl::OkStatus();
    const Instant now = clock_.now();
    deadline += pause.until(now);
    if (moved) {
      spin_until = {};
    } else if (spin_until == Instant{}) {
      spin_until = now + spin_;
    } else if (now >= spin_until) {
      ASSIGN_OR_RETURN(const Duration meant, wait(deadline));
      deadline += pause.until(clock_.now(), meant);
    }
  }
}

absl::Status SocketExchange::advance_all(bool& moved, bool& finished) {
  const auto each = [&](auto& messages) -> absl::Status {
    for (auto& m : messages) {
      if (m.finished()) continue;
      ASSIGN_OR_RETURN(const bool some, advance(m));
      moved |= some;
      finished &= m.finished();
    }
    return absl::OkStatus();
  };
  // What has come tells more about a peer than a refused write does.
  RETURN_IF_ERROR(each(receiving_));
  return each(sending_);
}

absl::StatusOr<bool> SocketExchange::advance(Sending& s) {
  iovec pieces[2];
  const int n_pieces = parts(s.header, s.message.bytes, s.done, pieces);
  RankStream& stream = streams_[s.message.peer];
  const absl::StatusOr<size_t> n = stream.send_now(std::span(pieces, n_pieces));
  if (!n.ok()) return closed(s.message.peer, std::string(n.status().message()));
  s.done += *n;
  s.left = s.taken() && !stream.has_unsent();
  return *n > 0 || s.left;
}

absl::StatusOr<bool> SocketExchange::advance(Receiving& r) {
  iovec pieces[2];
  // The header alone first: what follows may be another message than the one wanted.
  const bool in_header = r.done < sizeof(Header);
  const int n_pieces = parts(r.header, r.message.bytes, r.done, pieces);
  const absl::StatusOr<size_t> n =
      streams_[r.message.peer].receive_now(std::span(pieces, in_header ? 1 : n_pieces));
  if (!n.ok()) return fail(r.message.peer, Why::kGone, std::string(n.status().message()));
  r.done += *n;
  if (in_header && r.done == sizeof(Header)) RETURN_IF_ERROR(check_header(r));
  return *n > 0;
}

absl::Status SocketExchange::check_header(const Receiving& r) {
  if (r.header.word == static_cast<uint32_t>(Word::kBroken)) return follow(r.header, r.message.peer);
  if (r.header.word != word_ || r.header.bytes != r.message.bytes.size())
    return fail(r.message.peer, Why::kDisagree,
                cat("want message ", word_, " of ", r.message.bytes.size(), " bytes, got ", r.header.word,
                    " of ", r.header.bytes));
  return absl::OkStatus();
}

// The rank that the next failure is about.
int SocketExchange::awaited() const {
  for (const Receiving& r : receiving_)
    if (!r.finished()) return r.message.peer;
  for (const Sending& s : sending_)
    if (!s.finished()) return s.message.peer;
  return rank_;
}

absl::StatusOr<Duration> SocketExchange::wait(Instant deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock_.now());
  if (left.count() <= 0) return fail(awaited(), Why::kLate, "");
  std::vector<pollfd> entries(streams_.size(), pollfd{.fd = -1, .events = 0, .revents = 0});
  for (int peer = 0; peer < size(); ++peer)
    if (!left_[peer]) entries[peer] = {streams_[peer].fd(), POLLRDHUP, 0};
  for (const Receiving& r : receiving_)
    if (!r.finished()) entries[r.message.peer] = {streams_[r.message.peer].fd(), POLLIN, 0};
  for (const Sending& s : sending_) {
    if (s.finished()) continue;
    entries[s.message.peer].fd = streams_[s.message.peer].fd();
    entries[s.message.peer].events |= POLLOUT;
  }
  const auto most = std::min<std::chrono::milliseconds>(left, 1s);
  ::poll(entries.data(), entries.size(), static_cast<int>(most.count()));
  RETURN_IF_ERROR(look_at_closed(entries));
  return most;
}

absl::Status SocketExchange::look_at_closed(std::span<const pollfd> entries) {
  for (int peer = 0; peer < size(); ++peer) {
    const pollfd& entry = entries[peer];
    if (entry.fd < 0 || entry.events != POLLRDHUP || entry.revents == 0) continue;
    left_[peer] = true;
    char bytes[16384];  // only looked at: messages for later operations stay
    if (const auto last = last_words({bytes, streams_[peer].look(bytes)})) return follow(*last, peer);
  }
  return absl::OkStatus();
}

absl::Status SocketExchange::check() {
  if (!broken_.ok() || clock_.now() < next_look_) return broken_;
  return check_now();
}

absl::Status SocketExchange::check_now() {
  RETURN_IF_ERROR(broken_);
  next_look_ = clock_.now() + kBetweenLooks;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    pollfd entry{.fd = streams_[peer].fd(), .events = POLLRDHUP, .revents = 0};
    if (::poll(&entry, 1, 0) <= 0) continue;
    return closed(peer, "it closed the connection");
  }
  return absl::OkStatus();
}

std::optional<SocketExchange::Header> SocketExchange::last_words(std::string_view bytes) const {
  Header last{};
  if (bytes.size() < sizeof last) return std::nullopt;
  std::memcpy(&last, bytes.data() + bytes.size() - sizeof last, sizeof last);
  if (last.word != static_cast<uint32_t>(Word::kBroken) || last.culprit >= streams_.size())
    return std::nullopt;
  return last;
}

absl::Status SocketExchange::closed(int peer, std::string_view how) {
  std::string tail;  // the last bytes that came: where a rank that gave up says why
  char bytes[4096];
  for (;;) {
    const std::array<iovec, 1> room{iovec{bytes, sizeof bytes}};
    const absl::StatusOr<size_t> n = streams_[peer].receive_now(room);
    if (!n.ok() || *n == 0) break;
    tail.append(bytes, *n);
    tail.erase(0, tail.size() - std::min(tail.size(), sizeof(Header)));
  }
  const std::optional<Header> last = last_words(tail);
  return last ? follow(*last, peer) : fail(peer, Why::kGone, how);
}

absl::Status SocketExchange::follow(const Header& last, int finder) {
  return fail(static_cast<int>(last.culprit), static_cast<Why>(last.bytes), cat("found by rank ", finder));
}

void SocketExchange::interrupt(int culprit) {
  int nobody = -1;
  if (!interrupted_.compare_exchange_strong(nobody, culprit)) return;
  for (int peer = 0; peer < size(); ++peer)
    if (peer != rank_) ::shutdown(streams_[peer].fd(), SHUT_RDWR);
}

absl::Status SocketExchange::fail(int culprit, Why why, std::string_view how) {
  if (const int silent = interrupted_.load(); silent >= 0) {
    culprit = silent;
    why = Why::kLate;
    how = "";
  }
  culprit_ = culprit;
  const std::string who = cat("rank ", culprit, " of the group ");
  const std::string reason = how.empty() ? "" : cat(": ", how);
  if (why == Why::kLate) {
    broken_ = absl::DeadlineExceededError(cat(who, "did not come before the deadline", reason));
  } else if (why == Why::kDisagree) {
    broken_ = absl::InternalError(cat(who, "does something else", reason));
  } else {
    broken_ = absl::UnavailableError(cat(who, "is gone", reason));
  }
  tell_others(culprit, why);
  return broken_;
}

void SocketExchange::tell_others(int culprit, Why why) {
  Header header{.word = static_cast<uint32_t>(Word::kBroken),
                .culprit = static_cast<uint32_t>(culprit),
                .bytes = static_cast<uint64_t>(why)};
  const std::array<iovec, 1> words{iovec{&header, sizeof header}};
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    // In the middle of a message a header would be taken for payload: there the closed connection has to do.
    const bool between = std::ranges::none_of(
        sending_, [peer](const Sending& s) { return s.message.peer == peer && s.done != 0 && !s.taken(); });
    if (between) streams_[peer].send_now(words).IgnoreError();
    ::shutdown(streams_[peer].fd(), SHUT_RDWR);
  }
}

}  // namespace baton
