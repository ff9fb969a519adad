#pragma once

#include <functional>
#include <span>
#include <vector>

#include "transport/data/checksum.h"
#include "transport/data/frames.h"
#include "transport/data/links.h"

namespace baton::transport {

// An offer whose bytes are being read from a stream straight into the pool. Its owner may take the places
// back at any moment: `wanted` is asked before every read, and after a no nothing is written any more (design
// I2). The checksum is taken of what lies in the pool, read by read, while it is still in the cache. Thread:
// progress. Owns: nothing of the pool.
class OfferLanding final : public Landing {
 public:
  // `refusal` not ok: the bytes are thrown away. `places` are multiples of 64 bytes and make up offer.bytes.
  OfferLanding(OfferFrame offer, absl::Status refusal, std::vector<std::span<std::byte>> places,
               std::function<bool()> wanted);

  std::span<const std::span<std::byte>> room() override;
  void received(size_t bytes) override;

  const OfferFrame& offer() const { return offer_; }
  const absl::Status& refusal() const { return refusal_; }
  // When all bytes came: are they those that were offered, and was every one of them wanted?
  absl::Status verdict() const;

 private:
  const OfferFrame offer_;
  const absl::Status refusal_;
  std::vector<std::span<std::byte>> places_;  // [at_] and later: what is still to be filled
  size_t at_ = 0;
  std::span<std::byte> unsummed_;  // filled part of places_[at_] that is no whole line yet
  const std::function<bool()> wanted_;
  bool stopped_ = false;
  PieceChecksum sum_;
};

}  // namespace baton::transport
