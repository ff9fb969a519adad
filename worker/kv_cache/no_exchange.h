#pragma once

#include "worker/kv_cache/kv_exchange.h"

namespace baton::worker {

// The exchange of a worker that is alone: whoever wants KV moved is refused. Thread: any.
class NoExchange final : public KvExchange {
 public:
  absl::Status expect(const KvGrant&) override { return refusal(); }
  void abandon(TransferId) override {}
  absl::Status send(const KvSend&) override { return refusal(); }
  void layer_ready(TransferId, int, int32_t, int32_t) override {}
  void finish(TransferId, const TokenOutput&, FinishReason) override {}
  void cancel(TransferId) override {}
  int open_transfers() const override { return 0; }

 private:
  static absl::Status refusal() { return absl::UnimplementedError("this worker hands no KV over"); }
};

}  // namespace baton::worker
