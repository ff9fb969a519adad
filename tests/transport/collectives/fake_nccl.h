#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "kernels/device_stream.h"
#include "transport/collectives/nccl_library.h"

namespace baton {

// NCCL and streams without a GPU: ranks are threads of this process, device memory is theirs, and a call is
// done on a rank's stream when all ranks that it takes have made theirs. Scripted where a test wants trouble.
struct FakeCall {
  int rank = 0;
  std::span<const std::byte> from;
  std::span<std::byte> to;
};

// What joins the fake libraries of a group's ranks. Thread: any.
class FakeWire {
 public:
  struct Operation {
    std::vector<FakeCall> calls;
    bool done = false;
  };
  using Place = std::shared_ptr<Operation>;

  // The `number`-th call of this `kind` by a rank; done when `wanted` ranks have made it.
  Place join(const std::string& kind, int number, size_t wanted, const FakeCall& call) {
    const std::lock_guard lock(mutex_);
    Place& place = operations_[{kind, number}];
    if (place == nullptr) place = std::make_shared<Operation>();
    place->calls.push_back(call);
    if (place->calls.size() == wanted) {
      perform(kind, *place);
      place->done = true;
    }
    return place;
  }
  bool done(const Place& place) {
    const std::lock_guard lock(mutex_);
    return place->done;
  }
  void finish(const Place& place) {
    const std::lock_guard lock(mutex_);
    place->done = true;
  }

 private:
  static void perform(const std::string& kind, Operation& op) {
    std::ranges::sort(op.calls, {}, &FakeCall::rank);
    if (kind == "reduce") return add(op);
    size_t at = 0;
    std::vector<std::byte> sent;
    for (const FakeCall& c : op.calls) sent.insert(sent.end(), c.from.begin(), c.from.end());
    for (const FakeCall& c : op.calls) std::copy_n(sent.begin(), c.to.size(), c.to.begin() + at);
  }
  // In descending order of ranks, which is no order of the product's.
  static void add(Operation& op) {
    const size_t floats = op.calls[0].from.size() / sizeof(float);
    std::vector<float> sum(floats);
    for (auto call = op.calls.rbegin(); call != op.calls.rend(); ++call)
      for (size_t i = 0; i < floats; ++i) sum[i] += reinterpret_cast<const float*>(call->from.data())[i];
    for (const FakeCall& c : op.calls)
      std::copy_n(std::as_bytes(std::span(sum)).data(), c.to.size(), c.to.data());
  }

  std::mutex mutex_;
  std::map<std::pair<std::string, int>, Place> operations_;
};

class FakeStream final : public kernels::DeviceStream {
 public:
  explicit FakeStream(FakeWire& wire) : wire_(wire) {}
  void* handle() override { return this; }
  absl::Status copy(std::byte* to, const std::byte* from, size_t bytes) override {
    std::copy_n(from, bytes, to);
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> mark() override {
    marks_.push_back(queue_.size());
    return marks_.size();
  }
  absl::StatusOr<bool> passed(uint64_t mark) override {
    if (on_poll) on_poll();
    for (size_t i = 0; i < marks_.at(mark - 1); ++i)
      if (!wire_.done(queue_[i])) return false;
    return true;
  }
  void push(FakeWire::Place place) { queue_.push_back(std::move(place)); }
  // What aborting a communicator does to its kernels.
  void end_all() {
    for (const auto& place : queue_) wire_.finish(place);
  }
  std::function<void()> on_poll;

 private:
  FakeWire& wire_;
  std::vector<FakeWire::Place> queue_;
  std::vector<size_t> marks_;
};

class FakeNccl final : public NcclLibrary {
 public:
  struct Script {
    std::string version = "2.28.9";
    bool draws_ids = true;
    int polls = 0;                 // state() says "in progress" so often after each call; -1: for ever
    Answer later = Answer::kDone;  // what state() says then
    std::function<void()> on_poll;
  };

  FakeNccl(FakeWire& wire, FakeStream& stream, Script script)
      : script(std::move(script)), wire_(wire), stream_(stream) {}

  std::string version() const override { return script.version; }
  Answer new_id(NcclId& id) override {
    id.fill(std::byte{42});
    return script.draws_ids ? Answer::kDone : Answer::kFailed;
  }
  Answer begin(int ranks, const NcclId& id, int rank, Handle* communicator) override {
    id_ = id, ranks_ = ranks, rank_ = rank;
    *communicator = this;
    return accept();
  }
  Answer state(Handle) override {
    if (script.on_poll) script.on_poll();
    if (script.polls < 0) return Answer::kInProgress;
    return left_-- > 0 ? Answer::kInProgress : script.later;
  }
  void abort(Handle) override {
    ++aborts;
    stream_.end_all();
  }
  std::string last_error(Handle) const override { return "the fake's last words"; }

  Answer all_reduce(Handle, float* v, size_t floats, Stream) override {
    const std::span<std::byte> bytes(reinterpret_cast<std::byte*>(v), floats * sizeof(float));
    return post("reduce", ranks_, {rank_, bytes, bytes});
  }
  Answer all_gather(Handle, const std::byte* mine, std::byte* all, size_t bytes, Stream) override {
    return post("gather", ranks_, {rank_, {mine, bytes}, {all, bytes * ranks_}});
  }
  Answer broadcast(Handle, int root, std::byte* v, size_t bytes, Stream) override {
    const std::span<std::byte> all(v, bytes);
    return post("broadcast", ranks_,
                {rank_, root == rank_ ? all : all.first(0), root == rank_ ? all.first(0) : all});
  }
  Answer send(Handle, int to, const std::byte* v, size_t bytes, Stream) override {
    return post(pair(rank_, to), 2, {rank_, {v, bytes}, {}});
  }
  Answer receive(Handle, int from, std::byte* v, size_t bytes, Stream) override {
    return post(pair(from, rank_), 2, {rank_, {}, {v, bytes}});
  }

  Script script;
  int aborts = 0;
  const NcclId& id() const { return id_; }

 private:
  static std::string pair(int from, int to) { return std::to_string(from) + ">" + std::to_string(to); }
  Answer accept() {
    left_ = script.polls;
    return script.polls == 0 ? Answer::kDone : Answer::kInProgress;
  }
  Answer post(const std::string& kind, int wanted, const FakeCall& call) {
    stream_.push(wire_.join(kind, numbers_[kind]++, static_cast<size_t>(wanted), call));
    return accept();
  }

  FakeWire& wire_;
  FakeStream& stream_;
  NcclId id_{};
  int ranks_ = 0, rank_ = 0, left_ = 0;
  std::map<std::string, int> numbers_;
};

}  // namespace baton
