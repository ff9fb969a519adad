#include "cli/rank_group.h"

#include <array>
#include <cstring>

#include "base/cat.h"
#include "base/log.h"
#include "cli/cluster/process.h"
#include "transport/collectives/form_part.h"
#include "transport/collectives/nccl_communicator.h"

namespace baton::cli {
namespace {

// Of any wait of a step for another rank: a stage may have to wait for the chunk of the one before it. A rank
// that died is seen at once, this is for one that was stopped.
constexpr auto kStepPatience = std::chrono::seconds(10);
constexpr size_t kAddressBytes = 128;

}  // namespace

absl::StatusOr<std::unique_ptr<RankGroup>> RankGroup::form(const RankGroupOptions& o) {
  const Instant deadline = o.clock.now() + o.patience;
  for (;;) {
    auto made = std::make_unique<RankGroup>();
    const absl::Status formed = made->form_once(o);
    if (formed.ok()) return made;
    const bool one_left = made->world_ != nullptr && !made->world_->alive().ok();
    if (!one_left || o.clock.now() >= deadline) return formed;
    log_warn("a rank left while its group formed", {{"group", o.worker}, {"why", formed.ToString()}});
  }
}

absl::Status RankGroup::form_once(const RankGroupOptions& o) {
  if (o.security) {
    ASSIGN_OR_RETURN(tls_, transport::TlsContext::create(*o.security));
  }
  ASSIGN_OR_RETURN(Group group, form_group({.group = o.worker,
                                            .build = o.build,
                                            .incarnation = o.place.rank == 0 ? o.incarnation : Incarnation(),
                                            .rank = o.place.rank,
                                            .size = o.place.ranks,
                                            .rendezvous = o.place.rendezvous,
                                            .deadline = o.clock.now() + o.patience,
                                            .tls = tls_.get(),
                                            .patience = kStepPatience}));
  world_ = std::move(group.communicator);
  incarnation_ = group.incarnation;
  host_ = group.host;
  if (o.shape.pipeline > 1) RETURN_IF_ERROR(form_pipeline(o));
  ASSIGN_OR_RETURN(pulse_, form_part(o, "pulse", 0, o.place.ranks));
  if (o.device != nullptr) RETURN_IF_ERROR(form_on_gpus(o));
  Communicator& stage = gpus_ != nullptr ? *gpus_ : stage_ != nullptr ? *stage_ : *world_;
  links_ = std::make_unique<worker::RankLinks>(
      worker::RankLinks::Parts{*world_, stage, o.clock, kStepPatience, results_.get(), outbox_.get()},
      o.shape);
  return absl::OkStatus();
}

absl::Status RankGroup::form_pipeline(const RankGroupOptions& o) {
  const int stage = o.place.rank / o.shape.tensor;
  ASSIGN_OR_RETURN(stage_, form_part(o, cat("stage-", stage), stage * o.shape.tensor, o.shape.tensor));
  ASSIGN_OR_RETURN(results_, form_part(o, "results", 0, o.place.ranks));
  if (stage + 1 == o.shape.pipeline)
    outbox_ = std::make_unique<worker::ResultOutbox>(*results_, o.clock, kStepPatience);
  return absl::OkStatus();
}

absl::Status RankGroup::form_on_gpus(const RankGroupOptions& o) {
  if (o.shape.pipeline > 1)
    return absl::UnimplementedError(
        "device cuda: activations do not go from stage to stage of GPUs yet: want parallel.pipeline 1");
  if (tls_ != nullptr && world_->lane() != "shm")
    return absl::FailedPreconditionError(
        "device cuda: activations would go from machine to machine by NCCL, which has no TLS: keep the ranks "
        "on one machine, or set parallel.insecureAllowPlaintextOffLoopback: true if their network is "
        "private");
  ASSIGN_OR_RETURN(std::shared_ptr<NcclLibrary> library, load_nccl());
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> host, form_part(o, "gpus", 0, o.place.ranks));
  ASSIGN_OR_RETURN(gpus_, form_nccl({std::move(library), std::move(host), o.device->step_stream(), o.clock,
                                     o.device->id()},
                                    o.clock.now() + o.patience));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Communicator>> RankGroup::form_part(const RankGroupOptions& o,
                                                                   const std::string& name, int first,
                                                                   int size) {
  ASSIGN_OR_RETURN(Group group,
                   baton::form_part(*world_, {.name = name, .first = first, .size = size, .host = host_},
                                    {.group = o.worker,
                                     .build = o.build,
                                     .incarnation = incarnation_,
                                     .deadline = o.clock.now() + o.patience,
                                     .tls = tls_.get(),
                                     .patience = kStepPatience}));
  return std::move(group.communicator);
}

std::unique_ptr<worker::RankPulse> RankGroup::make_pulse(const Clock& clock,
                                                         std::function<worker::RankReport()> own) const {
  worker::RankPulse::Parts parts{
      .pulse = *pulse_, .others = {world_.get()}, .clock = clock, .own = std::move(own)};
  for (Communicator* some : {stage_.get(), results_.get(), gpus_.get()})
    if (some != nullptr) parts.others.push_back(some);
  return std::make_unique<worker::RankPulse>(std::move(parts));
}

worker::RankLinks RankGroup::stage_links(const Clock& clock) const {
  return {{*stage_, *stage_, clock, kStepPatience}, {.tensor = stage_->size()}};
}

absl::StatusOr<std::vector<worker::StageCost>> RankGroup::tell_costs(const worker::StageCost& own,
                                                                     Instant deadline) {
  using Card = std::array<int64_t, 2>;  // nanoseconds
  const Card mine = {own.layer.count(), own.rest.count()};
  std::vector<Card> all(static_cast<size_t>(world_->size()));
  RETURN_IF_ERROR(world_->all_gather(std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(all)), deadline));
  std::vector<worker::StageCost> out;
  for (const Card& card : all) out.push_back({.layer = Duration(card[0]), .rest = Duration(card[1])});
  return out;
}

absl::StatusOr<RankGroup::Meeting> RankGroup::meet(const std::string& address, Instant deadline) {
  struct Card {
    worker::KvGroupKey key{};
    std::array<char, kAddressBytes> address{};
  };
  Card mine;
  if (address.size() >= mine.address.size())
    return absl::InvalidArgumentError(cat("the data plane's address '", address, "' is too long"));
  for (uint64_t& word : mine.key) word = random_source()();
  std::memcpy(mine.address.data(), address.data(), address.size());
  std::vector<Card> all(static_cast<size_t>(world_->size()));
  RETURN_IF_ERROR(world_->all_gather(std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(all)), deadline));
  Meeting out{.key = all[0].key};
  for (Card& card : all) {
    card.address.back() = 0;
    out.addresses.emplace_back(card.address.data());
  }
  return out;
}

std::string RankGroup::text() const {
  std::string all = cat(world_->size(), " ranks over ", world_->lane());
  if (gpus_ != nullptr) return cat(all, ", GPUs over nccl");
  return stage_ == nullptr || stage_->lane() == "self" ? all : cat(all, ", stages over ", stage_->lane());
}

}  // namespace baton::cli
