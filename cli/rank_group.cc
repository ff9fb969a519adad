#include "cli/rank_group.h"

#include <array>
#include <cstring>

#include "base/cat.h"
#include "cli/process.h"
#include "transport/collectives/form_group.h"
#include "transport/collectives/stream_socket.h"

namespace baton::cli {
namespace {

// Of any wait of a step for another rank: a stage may have to wait for the chunk of the one before it. A rank
// that died is seen at once, this is for one that was stopped.
constexpr auto kStepPatience = std::chrono::seconds(10);
constexpr size_t kAddressBytes = 128;

// A place that the ranks of a stage can meet at, from its first rank.
absl::StatusOr<std::string> meeting_place(const std::string& own_host) {
  if (own_host.empty()) return cat("unix:@baton-stage-", random_source()());
  ASSIGN_OR_RETURN(const OwnedFd listener, listen_at(host_and_port(own_host, 0)));
  return host_and_port(own_host, local_port(listener.get()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankGroup>> RankGroup::form(const RankGroupOptions& o) {
  auto made = std::make_unique<RankGroup>();
  ASSIGN_OR_RETURN(Group group, form_group({.group = o.worker,
                                            .build = o.build,
                                            .incarnation = o.place.rank == 0 ? o.incarnation : Incarnation(),
                                            .rank = o.place.rank,
                                            .size = o.place.ranks,
                                            .rendezvous = o.place.rendezvous,
                                            .deadline = o.clock.now() + o.patience}));
  made->world_ = std::move(group.communicator);
  made->incarnation_ = group.incarnation;
  if (o.shape.pipeline > 1) RETURN_IF_ERROR(made->form_stage(o, group.host));
  Communicator& stage = made->stage_ == nullptr ? *made->world_ : *made->stage_;
  made->links_ = std::make_unique<worker::RankLinks>(
      worker::RankLinks::Parts{*made->world_, stage, o.clock, kStepPatience}, o.shape);
  return made;
}

absl::Status RankGroup::form_stage(const RankGroupOptions& o, const std::string& own_host) {
  const int stage = o.place.rank / o.shape.tensor;
  std::array<char, kAddressBytes> mine{};
  ASSIGN_OR_RETURN(const std::string own, meeting_place(own_host));
  std::memcpy(mine.data(), own.data(), std::min(own.size(), mine.size() - 1));
  std::vector<char> all(mine.size() * o.shape.ranks());
  const Instant deadline = o.clock.now() + o.patience;
  RETURN_IF_ERROR(
      world_->all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)), deadline));
  const std::string first(&all[kAddressBytes * stage * o.shape.tensor]);
  ASSIGN_OR_RETURN(Group group, form_group({.group = cat(o.worker, "/stage-", stage),
                                            .build = o.build,
                                            .incarnation = incarnation_,
                                            .rank = o.place.rank % o.shape.tensor,
                                            .size = o.shape.tensor,
                                            .rendezvous = first,
                                            .deadline = deadline}));
  stage_ = std::move(group.communicator);
  return absl::OkStatus();
}

std::string RankGroup::text() const {
  const std::string all = cat(world_->size(), " ranks over ", world_->lane());
  return stage_ == nullptr || stage_->lane() == "self" ? all : cat(all, ", stages over ", stage_->lane());
}

}  // namespace baton::cli
