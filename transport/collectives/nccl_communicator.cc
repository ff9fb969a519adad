#include "transport/collectives/nccl_communicator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <string_view>
#include <thread>
#include <vector>

#include "base/cat.h"
#include "base/check.h"
#include "transport/collectives/own_pause.h"

namespace baton {
namespace {

using namespace std::chrono_literals;
using Answer = NcclLibrary::Answer;

constexpr Duration kBetweenLooks = 50ms;  // at the ranks' lives

// What ranks compare before they meet in NCCL.
struct Card {
  std::array<char, 16> version{};
  std::array<char, 64> device{};
};

template <size_t kSize>
void put(std::array<char, kSize>& to, std::string_view text) {
  std::memcpy(to.data(), text.data(), std::min(text.size(), kSize - 1));
}

class NcclCommunicator final : public Communicator {
 public:
  explicit NcclCommunicator(NcclParts parts) : parts_(std::move(parts)) {}
  ~NcclCommunicator() override { abort(); }

  absl::Status form(Instant deadline);

  int rank() const override { return parts_.host->rank(); }
  int size() const override { return parts_.host->size(); }
  std::string lane() const override { return "nccl"; }
  absl::Status all_reduce(std::span<float> values, Instant deadline) override;
  absl::Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                          Instant deadline) override;
  absl::Status broadcast(int root, std::span<std::byte> bytes, Instant deadline) override;
  absl::Status send(int to, std::span<const std::byte> bytes, Instant deadline) override;
  absl::Status receive(int from, std::span<std::byte> bytes, Instant deadline) override;
  absl::Status barrier(Instant deadline) override;
  absl::Status alive() override;
  void interrupt(int culprit) override;
  int culprit() const override { return culprit_; }

 private:
  absl::Status compare_cards(Instant deadline);
  // Makes the call, and polls until NCCL has taken it.
  absl::Status enqueue(std::string_view what, Instant deadline, const std::function<Answer()>& call);
  // The same, and until it is done on the stream.
  absl::Status run(std::string_view what, Instant deadline, const std::function<Answer()>& call);
  // Until `done` says true; looks at interrupts, the ranks' lives and the deadline meanwhile.
  absl::Status wait(std::string_view what, Instant deadline,
                    const std::function<absl::StatusOr<bool>()>& done);
  absl::StatusOr<bool> accepted(std::string_view what, Answer answer);
  absl::Status look(Instant now);
  absl::Status fail(const absl::Status& why);
  void abort();

  NcclParts parts_;
  NcclLibrary::Handle handle_ = nullptr;
  Instant next_look_{};
  absl::Status broken_;
  std::atomic<int> culprit_ = -1;
  std::atomic<int> interrupted_ = -1;
};

absl::Status NcclCommunicator::compare_cards(Instant deadline) {
  Card mine;
  put(mine.version, parts_.library->version());
  put(mine.device, parts_.device);
  std::vector<Card> all(static_cast<size_t>(size()));
  RETURN_IF_ERROR(parts_.host->all_gather(std::as_bytes(std::span(&mine, 1)),
                                          std::as_writable_bytes(std::span(all)), deadline));
  for (int r = 0; r < size(); ++r) {
    if (all[r].version != all[0].version)
      return absl::FailedPreconditionError(cat("lane nccl: rank ", r, " has NCCL ", all[r].version.data(),
                                               ", rank 0 has ", all[0].version.data(),
                                               ": install the same on all hosts"));
    for (int other = 0; other < r; ++other)
      if (all[r].device == all[other].device)
        return absl::FailedPreconditionError(
            cat("lane nccl: ranks ", other, " and ", r, " are on one GPU (", all[r].device.data(),
                "): every rank of a group needs its own, see CUDA_VISIBLE_DEVICES"));
  }
  return absl::OkStatus();
}

absl::Status NcclCommunicator::form(Instant deadline) {
  RETURN_IF_ERROR(compare_cards(deadline));
  // With the id goes whether there is one, so that nobody waits for a rank 0 that has given up.
  std::array<std::byte, 1 + sizeof(NcclId)> word{};
  NcclId id{};
  if (rank() == 0) {
    word[0] = std::byte{parts_.library->new_id(id) == Answer::kDone};
    std::memcpy(&word[1], id.data(), id.size());
  }
  RETURN_IF_ERROR(parts_.host->broadcast(0, word, deadline));
  if (word[0] == std::byte{0})
    return absl::UnavailableError(
        "lane nccl: rank 0 has no network interface that NCCL takes (NCCL_SOCKET_IFNAME names one, "
        "NCCL_DEBUG=INFO says why)");
  std::memcpy(id.data(), &word[1], id.size());
  RETURN_IF_ERROR(enqueue("forming the group", deadline,
                          [&] { return parts_.library->begin(size(), id, rank(), &handle_); }));
  return parts_.host->barrier(deadline);
}

void NcclCommunicator::abort() {
  if (handle_ != nullptr) parts_.library->abort(handle_);
  handle_ = nullptr;
}

absl::Status NcclCommunicator::fail(const absl::Status& why) {
  abort();
  broken_ = why;
  return broken_;
}

absl::StatusOr<bool> NcclCommunicator::accepted(std::string_view what, Answer answer) {
  if (answer == Answer::kDone) return true;
  if (answer == Answer::kInProgress) return false;
  // NCCL sees only that a connection ended: the host's life lines know whose.
  RETURN_IF_ERROR(look(kNever));
  const std::string text = handle_ == nullptr ? "" : parts_.library->last_error(handle_);
  const std::string all = cat("lane nccl: ", what, " failed", text.empty() ? "" : ": ", text);
  return answer == Answer::kRemote ? absl::UnavailableError(all) : absl::InternalError(all);
}

// An error when a rank is known to be gone, or to be waited for in vain.
absl::Status NcclCommunicator::look(Instant now) {
  if (const int late = interrupted_; late >= 0) {
    culprit_ = late;
    return absl::DeadlineExceededError(cat("lane nccl: rank ", late, " was waited for in vain"));
  }
  if (now < next_look_) return absl::OkStatus();
  if (now != kNever) next_look_ = now + kBetweenLooks;
  absl::Status host = parts_.host->alive();
  if (!host.ok()) culprit_ = parts_.host->culprit();
  return host;
}

absl::Status NcclCommunicator::wait(std::string_view what, Instant deadline,
                                    const std::function<absl::StatusOr<bool>()>& done) {
  OwnPause pause(parts_.clock.now());
  for (;;) {
    const absl::StatusOr<bool> over = done();
    if (!over.ok()) return fail(over.status());
    if (*over) return absl::OkStatus();
    const Instant now = parts_.clock.now();
    deadline += pause.until(now);
    if (const absl::Status lives = look(now); !lives.ok()) return fail(lives);
    if (now >= deadline)
      return fail(absl::DeadlineExceededError(
          cat("lane nccl: ", what, ": rank ", rank(), " of ", size(), " waited for the others in vain")));
    std::this_thread::yield();
  }
}

absl::Status NcclCommunicator::enqueue(std::string_view what, Instant deadline,
                                       const std::function<Answer()>& call) {
  RETURN_IF_ERROR(broken_);
  bool called = false;
  RETURN_IF_ERROR(wait(what, deadline, [&]() -> absl::StatusOr<bool> {
    const Answer answer = called ? parts_.library->state(handle_) : call();
    called = true;
    return accepted(what, answer);
  }));
  return absl::OkStatus();
}

absl::Status NcclCommunicator::run(std::string_view what, Instant deadline,
                                   const std::function<Answer()>& call) {
  RETURN_IF_ERROR(enqueue(what, deadline, call));
  const absl::StatusOr<uint64_t> mark = parts_.stream.mark();
  if (!mark.ok()) return fail(mark.status());
  return wait(what, deadline, [&]() -> absl::StatusOr<bool> {
    RETURN_IF_ERROR(accepted(what, parts_.library->state(handle_)).status());
    return parts_.stream.passed(*mark);
  });
}

absl::Status NcclCommunicator::all_reduce(std::span<float> values, Instant deadline) {
  return run("all-reduce", deadline, [&] {
    return parts_.library->all_reduce(handle_, values.data(), values.size(), parts_.stream.handle());
  });
}

absl::Status NcclCommunicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                          Instant deadline) {
  BATON_CHECK(all.size() == mine.size() * size());
  return run("all-gather", deadline, [&] {
    return parts_.library->all_gather(handle_, mine.data(), all.data(), mine.size(), parts_.stream.handle());
  });
}

absl::Status NcclCommunicator::broadcast(int root, std::span<std::byte> bytes, Instant deadline) {
  return run("broadcast", deadline, [&] {
    return parts_.library->broadcast(handle_, root, bytes.data(), bytes.size(), parts_.stream.handle());
  });
}

absl::Status NcclCommunicator::send(int to, std::span<const std::byte> bytes, Instant deadline) {
  BATON_CHECK(to != rank());
  return run("send", deadline, [&] {
    return parts_.library->send(handle_, to, bytes.data(), bytes.size(), parts_.stream.handle());
  });
}

absl::Status NcclCommunicator::receive(int from, std::span<std::byte> bytes, Instant deadline) {
  BATON_CHECK(from != rank());
  return run("receive", deadline, [&] {
    return parts_.library->receive(handle_, from, bytes.data(), bytes.size(), parts_.stream.handle());
  });
}

absl::Status NcclCommunicator::barrier(Instant deadline) {
  RETURN_IF_ERROR(broken_);
  const absl::Status met = parts_.host->barrier(deadline);
  if (met.ok()) return met;
  culprit_ = parts_.host->culprit();
  return fail(met);
}

absl::Status NcclCommunicator::alive() {
  RETURN_IF_ERROR(broken_);
  const absl::Status lives = look(kNever);
  return lives.ok() ? lives : fail(lives);
}

void NcclCommunicator::interrupt(int culprit) {
  interrupted_ = culprit;
  parts_.host->interrupt(culprit);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> form_nccl(NcclParts parts, Instant deadline) {
  auto made = std::make_unique<NcclCommunicator>(std::move(parts));
  RETURN_IF_ERROR(made->form(deadline));
  return made;
}

}  // namespace baton
