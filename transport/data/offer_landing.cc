#include "transport/data/offer_landing.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::transport {

OfferLanding::OfferLanding(OfferFrame offer, absl::Status refusal, std::vector<std::span<std::byte>> places,
                           std::function<bool()> wanted)
    : offer_(std::move(offer)),
      refusal_(std::move(refusal)),
      places_(std::move(places)),
      wanted_(std::move(wanted)),
      stopped_(!refusal_.ok()) {}

std::span<const std::span<std::byte>> OfferLanding::room() {
  if (!stopped_ && !wanted_()) stopped_ = true;
  if (stopped_) return {};
  return std::span(places_).subspan(at_);
}

void OfferLanding::received(size_t bytes) {
  while (bytes > 0) {
    BATON_CHECK(at_ < places_.size(), "more bytes than room");
    std::span<std::byte>& place = places_[at_];
    const size_t n = std::min(bytes, place.size());
    // What was filled lies in one piece before the rest of its place.
    const std::span<std::byte> filled(place.data() - unsummed_.size(), unsummed_.size() + n);
    const size_t lines = filled.size() / 64 * 64;
    if (offer_.has_checksum) sum_.add(filled.first(lines));
    unsummed_ = filled.subspan(lines);
    place = place.subspan(n);
    bytes -= n;
    if (place.empty()) ++at_;
  }
}

absl::Status OfferLanding::verdict() const {
  if (stopped_) return absl::NotFoundError("offer: its places were taken back meanwhile");
  BATON_CHECK(at_ == places_.size(), "a frame ended before its payload");
  if (offer_.has_checksum && sum_.value() != offer_.checksum)
    return absl::DataLossError("checksum: the bytes are not those that were offered");
  return absl::OkStatus();
}

}  // namespace baton::transport
