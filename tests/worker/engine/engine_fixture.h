#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "tests/support/engine_world.h"

namespace baton::worker {

// Small blocks, a small pool, and requests whose token ids are easy to tell apart.
class EngineFixture : public testing::Test {
 protected:
  static constexpr int kBlock = 4;

  static support::EngineWorldOptions defaults() {
    support::EngineWorldOptions options;
    options.engine.blocks = 64;
    options.engine.block_tokens = kBlock;
    SchedulerOptions& s = options.engine.scheduler;
    s.context_tokens = 200;
    s.token_budget = 64;
    s.max_running = 32;
    s.min_chunk = 4;
    s.headroom_tokens = 4;
    s.itl_objective = std::chrono::milliseconds(5);
    s.step_time = {.base_seconds = 1e-3, .seconds_per_prefill_token = 1e-4, .seconds_per_decode_row = 2e-4};
    return options;
  }
  void make(const support::EngineWorldOptions& options = defaults(), int workers = 1) {
    options_ = options;
    world_ = std::make_unique<support::EngineWorld>(options);
    for (int i = 0; i < workers; ++i) world_->add("w" + std::to_string(i));
  }
  static GenerateRequest request(uint64_t id, int prompt, int max_tokens, TokenId first = 0) {
    GenerateRequest r{.id = RequestId(id)};
    for (int i = 0; i < prompt; ++i) r.prompt.push_back((first + i) % 900);
    r.sampling.temperature = 0;
    r.stop.max_tokens = max_tokens;
    return r;
  }
  std::vector<TokenId> reference(const GenerateRequest& r) const {
    return support::kvhash_reference(r, options_.kv.layers, options_.model);
  }
  support::EngineWorld& world() { return *world_; }

  support::EngineWorldOptions options_;
  std::unique_ptr<support::EngineWorld> world_;
};

}  // namespace baton::worker
