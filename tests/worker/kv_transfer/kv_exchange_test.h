#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "tests/worker/kv_transfer/exchange_fixture.h"

namespace baton::worker {

using namespace std::chrono_literals;

inline constexpr transport::Fabric kEveryFabric[] = {transport::Fabric::kLoopbackStream,
                                                     transport::Fabric::kLoopbackLocal,
                                                     transport::Fabric::kUcxAm,
                                                     transport::Fabric::kUcxLocal,
                                                     transport::Fabric::kSocket,
                                                     transport::Fabric::kSocketLocal,
                                                     transport::Fabric::kTls,
                                                     transport::Fabric::kGet};
inline std::string name_of_fabric(const testing::TestParamInfo<transport::Fabric>& info) {
  return transport::fabric_name(info.param);
}

inline TokenOutput token(TransferId t) {
  return {.token = static_cast<TokenId>(t.value()), .logprob = -1, .top = {{3, -2, 1}}};
}

// A pair that has met; a prompt's grant and send; ranges of blocks.
class KvExchangeTest : public testing::TestWithParam<transport::Fabric> {
 protected:
  void SetUp() override {
    pair = std::make_unique<ExchangePair>(GetParam());
    ASSERT_TRUE(pair->join());
  }
  KvGrant grant(TransferId id, int32_t prompt, std::vector<BlockId> blocks, int32_t first = 0) const {
    KvGrant g{.transfer = id,
              .request = RequestId(id.value() + 1000),
              .source = pair->prefill.ref,
              .first_block = first,
              .prompt_tokens = prompt,
              .blocks = std::move(blocks)};
    for (size_t i = 0; i < g.blocks.size(); ++i)
      g.generations.push_back(static_cast<uint32_t>(id.value() * 7 + i));
    return g;
  }
  KvSend send(TransferId id, int32_t prompt, std::vector<BlockId> blocks) const {
    KvSend s{.transfer = id,
             .request = RequestId(id.value() + 1000),
             .destination = pair->decode.ref,
             .prompt_tokens = prompt,
             .blocks = std::move(blocks)};
    return s;
  }
  static std::vector<BlockId> range(uint32_t from, uint32_t count) {
    std::vector<BlockId> out;
    for (uint32_t i = 0; i < count; ++i) out.emplace_back(from + i);
    return out;
  }
  // Both sides idle again: nothing open, no deadline pending.
  void expect_idle() {
    EXPECT_EQ(pair->prefill.agent->open_transfers(), 0);
    EXPECT_EQ(pair->decode.agent->open_transfers(), 0);
  }
  std::unique_ptr<ExchangePair> pair;
};

}  // namespace baton::worker
