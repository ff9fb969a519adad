#include "transport/rpc/codec.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/transport/rpc/random_messages.h"
#include "wire.pb.h"

namespace baton::transport {
namespace {

using ::testing::HasSubstr;

// Through bytes, as the network does.
template <class Wire, class Message>
absl::StatusOr<Message> round_trip(const Message& message) {
  Wire sent;
  encode(message, sent);
  Wire received;
  EXPECT_TRUE(received.ParseFromString(sent.SerializeAsString()));
  return decode(received);
}

TEST(Codec, CoordinatorMessagesSurviveTheWire) {
  RandomMessages random(test_seed());
  for (int i = 0; i < 3000; ++i) {
    const CoordinatorMessage message = random.coordinator_message();
    const auto back = round_trip<wire::CoordinatorMessage>(message);
    ASSERT_TRUE(back.ok()) << i << ": " << back.status();
    ASSERT_TRUE(*back == message) << i << ", kind " << message.index();
  }
}

TEST(Codec, WorkerMessagesSurviveTheWire) {
  RandomMessages random(test_seed());
  for (int i = 0; i < 3000; ++i) {
    const WorkerMessage message = random.worker_message();
    const auto back = round_trip<wire::WorkerMessage>(message);
    ASSERT_TRUE(back.ok()) << i << ": " << back.status();
    ASSERT_TRUE(*back == message) << i << ", kind " << message.index();
  }
}

TEST(Codec, LongErrorTextIsCutNotRefused) {
  SubmitReply reply;
  reply.detail = std::string(kMaxTextBytes + 100, '\xff');
  const auto back = round_trip<wire::WorkerMessage>(WorkerMessage(reply));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(std::get<SubmitReply>(*back).detail, std::string(kMaxTextBytes, '\xff'));
}

TEST(Codec, ADeadlineThatHasPassedIsNoTimeLeft) {
  Submit submit = RandomMessages(1).submit();
  submit.request.time_left = -std::chrono::seconds(1);
  const auto back = round_trip<wire::CoordinatorMessage>(CoordinatorMessage(submit));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(std::get<Submit>(*back).request.time_left, Duration::zero());
}

// A good Submit, then one field spoiled.
struct BadSubmit {
  const char* field;
  void (*spoil)(wire::Submit&);
};

class BadSubmitTest : public ::testing::TestWithParam<BadSubmit> {};

TEST_P(BadSubmitTest, IsRefusedByName) {
  Submit good = RandomMessages(7).submit();
  good.leg = Leg::kPrefill;
  good.peer = WorkerRef{"decode-0", Incarnation(1)};
  wire::CoordinatorMessage message;
  encode(CoordinatorMessage(good), message);
  ASSERT_TRUE(decode(message).ok());
  GetParam().spoil(*message.mutable_submit());
  const auto bad = decode(message);
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr(GetParam().field));
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    Codec, BadSubmitTest,
    ::testing::Values(
        BadSubmit{"submit.leg", [](auto& s) { s.set_leg(static_cast<wire::Leg>(3)); }},
        BadSubmit{"submit.leg", [](auto& s) { s.set_leg(static_cast<wire::Leg>(-1)); }},
        BadSubmit{"submit.peer", [](auto& s) { s.clear_peer(); }},
        BadSubmit{"submit.worker.name", [](auto& s) { s.mutable_peer()->set_name("a/b"); }},
        BadSubmit{"submit.worker.name", [](auto& s) { s.mutable_peer()->set_name(""); }},
        BadSubmit{"submit.worker.name", [](auto& s) { s.mutable_peer()->set_name(std::string(254, 'x')); }},
        BadSubmit{"submit.request.trace_id", [](auto& s) { s.mutable_request()->set_trace_id("a\nb"); }},
        BadSubmit{"submit.request.trace_id",
                  [](auto& s) { s.mutable_request()->set_trace_id(std::string(65, 'x')); }},
        BadSubmit{"submit.request.tenant_salt",
                  [](auto& s) { s.mutable_request()->set_tenant_salt(std::string(kMaxTextBytes + 1, 'x')); }},
        BadSubmit{"submit.request.prompt", [](auto& s) { s.mutable_request()->clear_prompt(); }},
        BadSubmit{"submit.request.prompt", [](auto& s) { s.mutable_request()->add_prompt(-1); }},
        BadSubmit{"submit.request.prompt",
                  [](auto& s) { s.mutable_request()->mutable_prompt()->Resize(kMaxPromptTokens + 1, 5); }},
        BadSubmit{"submit.request.time_left_ns", [](auto& s) { s.mutable_request()->set_time_left_ns(-1); }},
        BadSubmit{
            "submit.request.time_left_ns",
            [](auto& s) { s.mutable_request()->set_time_left_ns(std::numeric_limits<int64_t>::max()); }},
        BadSubmit{"submit.request.sampling.temperature",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_temperature(kNan); }},
        BadSubmit{"submit.request.sampling.temperature",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_temperature(-1); }},
        BadSubmit{"submit.request.sampling.top_p",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_top_p(1.5f); }},
        BadSubmit{"submit.request.sampling.top_k",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_top_k(-1); }},
        BadSubmit{"submit.request.sampling.min_p",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_min_p(-0.5f); }},
        BadSubmit{"submit.request.sampling.repetition_penalty",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_repetition_penalty(0); }},
        BadSubmit{"submit.request.sampling.presence_penalty",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_presence_penalty(kNan); }},
        BadSubmit{"submit.request.sampling.frequency_penalty",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_frequency_penalty(kNan); }},
        BadSubmit{"submit.request.sampling.logit_bias.token",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->add_logit_bias()->set_token(-3); }},
        BadSubmit{"submit.request.sampling.logit_bias.bias",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->add_logit_bias()->set_bias(kNan); }},
        BadSubmit{"submit.request.sampling.logprobs",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_logprobs(-2); }},
        BadSubmit{"submit.request.sampling.prompt_logprobs",
                  [](auto& s) { s.mutable_request()->mutable_sampling()->set_prompt_logprobs(1000); }},
        BadSubmit{"submit.request.stop.max_tokens",
                  [](auto& s) { s.mutable_request()->mutable_stop()->set_max_tokens(0); }},
        BadSubmit{"submit.request.stop.min_tokens",
                  [](auto& s) { s.mutable_request()->mutable_stop()->set_min_tokens(-1); }},
        BadSubmit{"submit.request.stop.end_token_ids",
                  [](auto& s) { s.mutable_request()->mutable_stop()->add_end_token_ids(-1); }},
        BadSubmit{"submit.request.stop.stop_token_ids", [](auto& s) {
                    s.mutable_request()->mutable_stop()->mutable_stop_token_ids()->Resize(kMaxTokenList + 1,
                                                                                          1);
                  }}));

TEST(Codec, BadDescriptionsAreRefusedByName) {
  const WorkerDescription good = RandomMessages(3).description();
  const auto refused = [&](const char* field, auto spoil) {
    wire::WorkerDescription bad;
    encode(good, bad);
    ASSERT_TRUE(decode(bad).ok());
    spoil(bad);
    EXPECT_THAT(std::string(decode(bad).status().message()), HasSubstr(field));
  };
  refused("worker.role", [](auto& d) { d.set_role(static_cast<wire::WorkerRole>(9)); });
  refused("worker.worker.name", [](auto& d) { d.mutable_ref()->set_name("a b"); });
  refused("worker.pool", [](auto& d) { d.set_pool("../x"); });
  refused("worker.data_address", [](auto& d) { d.set_data_address(std::string(kMaxAddressBytes + 1, 'x')); });
  refused("worker.model_hash", [](auto& d) { d.set_model_hash(std::string(kMaxTextBytes + 1, 'x')); });
  refused("worker.block_tokens", [](auto& d) { d.set_block_tokens(0); });
  refused("worker.context_tokens", [](auto& d) { d.set_context_tokens(-1); });
  refused("worker.blocks_total", [](auto& d) { d.set_blocks_total(0); });
}

TEST(Codec, BadReportsAreRefusedByName) {
  const auto refused = [](const char* field, auto spoil) {
    wire::WorkerMessage bad;
    spoil(bad);
    const auto decoded = decode(bad);
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(decoded.status().message()), HasSubstr(field));
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  refused("kind", [](auto&) {});
  refused("step_report.blocks_stored", [](auto& m) { m.mutable_step_report()->add_blocks_stored(1); });
  refused("step_report.blocks_evicted", [](auto& m) { m.mutable_step_report()->add_blocks_evicted(1); });
  refused("step_report.load.running",
          [](auto& m) { m.mutable_step_report()->mutable_load()->set_running(-1); });
  refused("step_report.sequence.finish", [](auto& m) {
    m.mutable_step_report()->add_sequences()->set_finish(static_cast<wire::FinishReason>(7));
  });
  refused("step_report.sequence.tokens.token",
          [](auto& m) { m.mutable_step_report()->add_sequences()->add_tokens()->set_token(-1); });
  refused("step_report.sequence.tokens.logprob",
          [](auto& m) { m.mutable_step_report()->add_sequences()->add_tokens()->set_logprob(kNan); });
  refused("step_report.sequence.queued_ns",
          [](auto& m) { m.mutable_step_report()->add_sequences()->set_queued_ns(-1); });
  refused("submit_reply.reason",
          [](auto& m) { m.mutable_submit_reply()->set_reason(static_cast<wire::RefuseReason>(7)); });
  refused("released.leg", [](auto& m) { m.mutable_released()->set_leg(static_cast<wire::Leg>(4)); });
  refused("pong.load.step_base_seconds",
          [=](auto& m) { m.mutable_pong()->mutable_load()->set_step_base_seconds(kInfinity); });
  refused("peer_report.bytes_per_second", [](auto& m) {
    m.mutable_peer_report()->mutable_peer()->set_name("w");
    m.mutable_peer_report()->set_bytes_per_second(-1);
  });
  refused("transfer_report.duration_ns", [](auto& m) { m.mutable_transfer_report()->set_duration_ns(-1); });
}

// Whatever the bytes, the answer is a message or a status.
TEST(Codec, DamagedBytesNeverCrash) {
  const uint64_t seed = test_seed();
  RandomMessages random(seed);
  Rng rng(seed + 1);
  int parsed = 0;
  for (int i = 0; i < 5000; ++i) {
    wire::WorkerMessage worker;
    encode(random.worker_message(), worker);
    wire::CoordinatorMessage coordinator;
    encode(random.coordinator_message(), coordinator);
    std::string bytes = i % 2 ? worker.SerializeAsString() : coordinator.SerializeAsString();
    if (bytes.empty()) continue;
    for (uint64_t n = 1 + rng.below(4); n > 0; --n)
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
    if (rng.below(4) == 0) bytes.resize(rng.below(bytes.size()));
    if (i % 2 ? worker.ParseFromString(bytes) : coordinator.ParseFromString(bytes)) {
      ++parsed;
      if (i % 2) {
        (void)decode(worker);
      } else {
        (void)decode(coordinator);
      }
    }
  }
  EXPECT_GT(parsed, 100);  // else nothing was tested
}

}  // namespace
}  // namespace baton::transport
