#include "transport/collectives/socket_communicator.h"

#include <algorithm>

#include "base/check.h"
#include "transport/collectives/rank_sum.h"
#include "transport/collectives/socket_exchange.h"

namespace baton {
namespace {

using Word = SocketExchange::Word;

constexpr size_t kFlatFloats = (size_t{32} << 10) / sizeof(float);  // above: shares
constexpr size_t kChunkFloats = (size_t{4} << 20) / sizeof(float);  // bounds the buffers

class SocketCommunicator final : public Communicator {
 public:
  SocketCommunicator(int rank, std::vector<RankStream> streams, Duration spin)
      : exchange_(rank, std::move(streams), spin) {}

  int rank() const override { return exchange_.rank(); }
  int size() const override { return exchange_.size(); }
  std::string lane() const override { return exchange_.has_tls() ? "socket-tls" : "socket"; }
  absl::Status all_reduce(std::span<float> values, Instant deadline) override;
  absl::Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                          Instant deadline) override;
  absl::Status broadcast(int root, std::span<std::byte> bytes, Instant deadline) override;
  absl::Status send(int to, std::span<const std::byte> bytes, Instant deadline) override;
  absl::Status receive(int from, std::span<std::byte> bytes, Instant deadline) override;
  absl::Status barrier(Instant deadline) override;
  absl::Status alive() override { return exchange_.check_now(); }
  void interrupt(int culprit) override { exchange_.interrupt(culprit); }
  int culprit() const override { return exchange_.culprit(); }

 private:
  absl::Status reduce_flat(std::span<float> values, Instant deadline);
  absl::Status reduce_shares(std::span<float> values, Instant deadline);
  absl::Status run(Word word, Instant deadline) { return exchange_.run(word, out_, in_, deadline); }
  // Calls `body(peer)` for all other ranks, with empty lists of messages.
  template <class Body>
  void each_peer(const Body& body) {
    out_.clear();
    in_.clear();
    for (int r = 0; r < size(); ++r)
      if (r != rank()) body(r);
  }
  // One buffer of `count` floats for each rank.
  std::span<float> buffer(int r, size_t count);
  // Adds the ranks' buffers, own values in place of the own buffer.
  void add(std::span<float> values);

  SocketExchange exchange_;
  std::vector<SocketExchange::Outgoing> out_;
  std::vector<SocketExchange::Incoming> in_;
  std::vector<float> buffers_;
};

std::span<float> SocketCommunicator::buffer(int r, size_t count) {
  buffers_.resize(std::max(buffers_.size(), count * size()));
  return std::span(buffers_).subspan(r * count, count);
}

void SocketCommunicator::add(std::span<float> values) {
  std::vector<const float*> parts;
  std::ranges::copy(values, buffer(rank(), values.size()).begin());
  for (int r = 0; r < size(); ++r) parts.push_back(buffer(r, values.size()).data());
  rank_sum(parts, values.data(), values.size());
}

absl::Status SocketCommunicator::all_reduce(std::span<float> values, Instant deadline) {
  RETURN_IF_ERROR(exchange_.check());
  while (!values.empty()) {
    const auto chunk = values.first(std::min(values.size(), kChunkFloats));
    const bool flat = size() == 2 || chunk.size() <= kFlatFloats;
    RETURN_IF_ERROR(flat ? reduce_flat(chunk, deadline) : reduce_shares(chunk, deadline));
    values = values.subspan(chunk.size());
  }
  return absl::OkStatus();
}

absl::Status SocketCommunicator::reduce_flat(std::span<float> values, Instant deadline) {
  buffer(0, values.size());  // before any span of it is taken
  each_peer([&](int r) {
    out_.push_back({r, std::as_bytes(values)});
    in_.push_back({r, std::as_writable_bytes(buffer(r, values.size()))});
  });
  RETURN_IF_ERROR(run(Word::kReduce, deadline));
  add(values);
  return absl::OkStatus();
}

absl::Status SocketCommunicator::reduce_shares(std::span<float> values, Instant deadline) {
  const size_t share = (values.size() + size() - 1) / size();
  const auto share_of = [&](int r) {
    const size_t from = std::min(values.size(), share * r);
    return values.subspan(from, std::min(values.size() - from, share));
  };
  const std::span<float> mine = share_of(rank());
  buffer(0, mine.size());
  each_peer([&](int r) {
    out_.push_back({r, std::as_bytes(share_of(r))});
    in_.push_back({r, std::as_writable_bytes(buffer(r, mine.size()))});
  });
  RETURN_IF_ERROR(run(Word::kReduce, deadline));
  add(mine);
  each_peer([&](int r) {
    out_.push_back({r, std::as_bytes(mine)});
    in_.push_back({r, std::as_writable_bytes(share_of(r))});
  });
  return run(Word::kShare, deadline);
}

absl::Status SocketCommunicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                            Instant deadline) {
  BATON_CHECK(all.size() == mine.size() * size());
  RETURN_IF_ERROR(exchange_.check());
  each_peer([&](int r) {
    out_.push_back({r, mine});
    in_.push_back({r, all.subspan(r * mine.size(), mine.size())});
  });
  RETURN_IF_ERROR(run(Word::kGather, deadline));
  std::ranges::copy(mine, all.begin() + static_cast<ptrdiff_t>(rank() * mine.size()));
  return absl::OkStatus();
}

absl::Status SocketCommunicator::broadcast(int root, std::span<std::byte> bytes, Instant deadline) {
  if (root == rank()) RETURN_IF_ERROR(exchange_.check());
  each_peer([&](int r) {
    if (root == rank()) out_.push_back({r, bytes});
    if (root == r) in_.push_back({r, bytes});
  });
  return run(Word::kBroadcast, deadline);
}

absl::Status SocketCommunicator::send(int to, std::span<const std::byte> bytes, Instant deadline) {
  BATON_CHECK(to != rank());
  out_.assign(1, {to, bytes});
  in_.clear();
  return run(Word::kMessage, deadline);
}

absl::Status SocketCommunicator::receive(int from, std::span<std::byte> bytes, Instant deadline) {
  BATON_CHECK(from != rank());
  out_.clear();
  in_.assign(1, {from, bytes});
  return run(Word::kMessage, deadline);
}

absl::Status SocketCommunicator::barrier(Instant deadline) {
  RETURN_IF_ERROR(exchange_.check());
  each_peer([&](int r) {
    out_.push_back({r, {}});
    in_.push_back({r, {}});
  });
  return run(Word::kBarrier, deadline);
}

}  // namespace

std::unique_ptr<Communicator> socket_communicator(int rank, std::vector<RankStream> streams, Duration spin) {
  return std::make_unique<SocketCommunicator>(rank, std::move(streams), spin);
}

}  // namespace baton
