// See README.md.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "benchmarks/transfer/baselines.h"
#include "transport/data/host_id.h"
#include "transport/data/process_data_plane.h"

namespace baton::benchmarks {
namespace {

using transport::DataPlane;
using transport::PoolRun;

struct Sizes {
  size_t pool = size_t{512} << 20;
  size_t total = size_t{1024} << 20;
};

std::unique_ptr<DataPlane> make_plane(const std::string& name, const std::string& lane, size_t pool) {
  auto plane = transport::make_process_data_plane(
      {.identity = {.self = {name, Incarnation(1)}, .host_id = transport::host_id()},
       .lanes = *transport::parse_lanes(lane),
       .pool_bytes = pool});
  BATON_CHECK(plane.ok(), std::string(plane.status().message()).c_str());
  return *std::move(plane);
}

// Lands every offer in random blocks, for ever.
class Receiver final : public transport::DataPlaneListener {
 public:
  Receiver(DataPlane& plane, size_t block) : plane_(plane), block_(block) { plane.set_listener(*this); }
  void run() {
    const SteadyClock clock;
    while (true)
      if (plane_.do_work(clock.now()) == 0) plane_.wait(std::chrono::seconds(1));
  }
  void on_peer(const transport::PeerEvent&) override {}
  void on_message(const WorkerRef&, std::span<const std::byte>) override {}
  absl::StatusOr<std::vector<PoolRun>> on_offer(const WorkerRef&, std::span<const std::byte>,
                                                uint64_t bytes) override {
    std::vector<PoolRun> places;
    for (uint64_t at = 0; at < bytes; at += block_)
      places.push_back({.offset = rng_.below(plane_.pool().size() / block_) * block_,
                        .bytes = std::min<uint64_t>(block_, bytes - at)});
    return places;
  }
  bool still_wanted(const WorkerRef&, std::span<const std::byte>) override { return true; }
  absl::Status on_landed(const WorkerRef&, std::span<const std::byte>, const absl::Status& moved) override {
    return moved;
  }
  void on_answer(const WorkerRef&, uint64_t, const absl::Status&) override {}

 private:
  DataPlane& plane_;
  const size_t block_;
  Rng rng_{7};
};

// Offers random blocks and counts the answers.
class Sender final : public transport::DataPlaneListener {
 public:
  explicit Sender(DataPlane& plane) : plane_(plane) { plane.set_listener(*this); }
  void connect(const std::string& address) {
    peer_ = {"receiver", Incarnation(1)};
    BATON_CHECK(plane_.connect({.ref = peer_, .data_address = address}, clock_.now()).ok());
    while (!plane_.connected(peer_)) turn();
  }
  // GB/s of `total` bytes in offers of `blocks` blocks.
  double run(size_t block, size_t blocks, size_t total) {
    const Instant begin = clock_.now();
    const size_t window = 8 << 20;
    answered_ = 0;
    for (size_t offered = 0; answered_ < total; turn()) {
      while (offered < total && offered - answered_ < window) {
        runs_.clear();
        for (size_t i = 0; i < blocks; ++i)
          runs_.push_back({.offset = rng_.below(plane_.pool().size() / block) * block, .bytes = block});
        BATON_CHECK(plane_.offer(peer_, {.cookie = ++cookie_, .runs = runs_}).ok());
        offered += block * blocks;
        per_offer_ = block * blocks;
      }
    }
    return static_cast<double>(answered_) / 1e9 / to_seconds(clock_.now() - begin);
  }
  void on_peer(const transport::PeerEvent& event) override {
    BATON_CHECK(event.kind == transport::PeerEvent::Kind::kConnected, event.detail.c_str());
  }
  void on_message(const WorkerRef&, std::span<const std::byte>) override {}
  absl::StatusOr<std::vector<PoolRun>> on_offer(const WorkerRef&, std::span<const std::byte>,
                                                uint64_t) override {
    return absl::UnimplementedError("sends only");
  }
  bool still_wanted(const WorkerRef&, std::span<const std::byte>) override { return true; }
  absl::Status on_landed(const WorkerRef&, std::span<const std::byte>, const absl::Status& moved) override {
    return moved;
  }
  void on_answer(const WorkerRef&, uint64_t, const absl::Status& verdict) override {
    BATON_CHECK(verdict.ok(), std::string(verdict.message()).c_str());
    answered_ += per_offer_;
  }

 private:
  void turn() {
    if (plane_.do_work(clock_.now()) == 0) plane_.wait(std::chrono::seconds(1));
  }
  const SteadyClock clock_;
  DataPlane& plane_;
  WorkerRef peer_;
  Rng rng_{8};
  std::vector<PoolRun> runs_;
  uint64_t cookie_ = 0;
  size_t per_offer_ = 0;
  size_t answered_ = 0;
};

size_t blocks_per_offer(const std::string& lane, size_t block) {
  if (lane == "local") return block >= (1 << 20) ? 16 : 64;
  if (lane == "socket") return std::max<size_t>(1, (size_t{1} << 20) / block);
  return std::max<size_t>(1, size_t{248 * 1024} / block);
}

// In a process of its own, so that UCX starts after the fork.
double lane_rate(const std::string& lane, size_t block, const Sizes& sizes) {
  int addresses[2], results[2];
  BATON_CHECK(::pipe(addresses) == 0 && ::pipe(results) == 0);
  const pid_t receiver = ::fork();
  if (receiver == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto plane = make_plane("receiver", lane, sizes.pool);
    char text[64] = {};
    std::snprintf(text, sizeof text, "%s", plane->address().c_str());
    BATON_CHECK(::write(addresses[1], text, sizeof text) == sizeof text);
    Receiver(*plane, block).run();
  }
  const pid_t sender = ::fork();
  if (sender == 0) {
    char text[64];
    BATON_CHECK(::read(addresses[0], text, sizeof text) == sizeof text);
    auto plane = make_plane("sender", lane, sizes.pool);
    Sender sending(*plane);
    sending.connect(text);
    sending.run(block, blocks_per_offer(lane, block), sizes.total / 4);
    const double rate = sending.run(block, blocks_per_offer(lane, block), sizes.total);
    BATON_CHECK(::write(results[1], &rate, sizeof rate) == sizeof rate);
    ::_exit(0);
  }
  ::close(results[1]);
  double rate = 0;
  if (::read(results[0], &rate, sizeof rate) != sizeof rate) rate = 0;
  ::waitpid(sender, nullptr, 0);
  ::kill(receiver, SIGKILL);
  ::waitpid(receiver, nullptr, 0);
  for (const int fd : {addresses[0], addresses[1], results[0]}) ::close(fd);
  return rate;
}

int run(const Sizes& sizes) {
  for (const size_t block : {size_t{16} << 10, size_t{64} << 10, size_t{256} << 10, size_t{1} << 20}) {
    double copy = 0, socket = 0;
    {
      std::vector<std::byte> from(sizes.pool, std::byte{1}), to(sizes.pool, std::byte{2});
      copy = memcpy_rate(to, from, block, sizes.total);
      socket = socket_rate(to, block, sizes.total);
    }
    const double local = lane_rate("local", block, sizes);
    const double am = lane_rate("am", block, sizes);
    const double stream = lane_rate("socket", block, sizes);
    std::printf(
        "{\"block_bytes\": %zu, \"memcpy_gbps\": %.2f, \"socket_gbps\": %.2f, \"local_gbps\": %.2f, "
        "\"am_gbps\": %.2f, \"stream\": %.2f, \"local_of_memcpy\": %.2f, \"am_of_socket\": %.2f, "
        "\"stream_of_socket\": %.2f}\n",
        block, copy, socket, local, am, stream, local / copy, am / socket, stream / socket);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace baton::benchmarks

int main(int argc, char** argv) {
  baton::benchmarks::Sizes sizes;
  if (argc > 1) sizes.pool = std::strtoull(argv[1], nullptr, 10) << 20;
  if (argc > 2) sizes.total = std::strtoull(argv[2], nullptr, 10) << 20;
  if (sizes.pool == 0 || sizes.total == 0) return 2;
  return baton::benchmarks::run(sizes);
}
