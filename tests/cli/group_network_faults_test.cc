// A prefill group and a decode group whose ranks are on four hosts, one each, while links between them break:
// KV goes from each prefill rank to each decode rank over a network, ranks talk to each other: all under TLS
// where certificates can be made.
#include "tests/cli/faults_fixture.h"

namespace baton::cli {
namespace {

constexpr int kPrefill0 = 1, kPrefill1 = 2, kDecode0 = 3, kDecode1 = 4;  // hosts; the coordinator is on 0
constexpr int kDataPort = 7300;

class GroupNetworkFaults : public FaultsOnHosts {
 protected:
  int host_count() const override { return 5; }

  void SetUp() override {
    ClusterOnHosts::SetUp();
    if (IsSkipped() || HasFailure()) return;
    serve(cat(pool("prefill", "tensor: 2", kPrefill0, kPrefill1), ", ",
              pool("decode", "pipeline: 2, stageLayers: [3, 2]", kDecode0, kDecode1)),
          {{kPrefill0, "prefill", "prefill-0"},
           {kPrefill1, "prefill"},
           {kDecode0, "decode", "decode-0"},
           {kDecode1, "decode"}},
          {.tokens = 120, .answers = 6, .serves_meanwhile = false, .tls = true});
  }
  std::string address(int host, int rank) const {
    return cat(tls_ ? " tls:" : " socket:", kHosts[host], ":", kDataPort + rank);
  }
  static std::string pool(const char* name, const char* shape, int first, int second) {
    return cat(name, ": {kv: {memory: 8Mi}, hosts: [", kHosts[first], ", ", kHosts[second],
               "], network: {dataPort: ", kDataPort, "}, parallel: {", shape,
               TestCertificates::get().there() ? "}}" : ", insecureAllowPlaintextOffLoopback: true}}");
  }
};

TEST_F(GroupNetworkFaults, EachRankHandsOverItselfOnAPortOfItsOwn) {
  for (const RequestLoad::Prompt& prompt : prompts_) EXPECT_TRUE(is_exact(prompt));
  EXPECT_TRUE(on_lane_socket()) << "another host's memory was used";
  const boost::json::object prefill = worker("prefill-0"), decode = worker("decode-0");
  EXPECT_EQ(prefill.at("data_address").as_string(),
            cat("ranks 2x1", address(kPrefill0, 0), address(kPrefill1, 1)));
  EXPECT_EQ(decode.at("data_address").as_string(),
            cat("ranks 1x2/3+2", address(kDecode0, 0), address(kDecode1, 1)));
  for (const auto& group : {prefill, decode})
    EXPECT_THAT(std::string(group.at("device").as_string()),
                ::testing::EndsWith(tls_ ? "2 ranks over socket-tls" : "2 ranks over socket"));
}

TEST_F(GroupNetworkFaults, OnePairOfRanksCut) {
  cut_and_heal({{kPrefill1, kDecode0}, {kDecode0, kPrefill1}});
}
TEST_F(GroupNetworkFaults, OneRankCannotReachAnother) { cut_and_heal({{kPrefill1, kDecode1}}); }
TEST_F(GroupNetworkFaults, OneRankIsNotAnswered) { cut_and_heal({{kDecode1, kPrefill1}}); }
TEST_F(GroupNetworkFaults, RanksOfTheDecodeGroupCut) {
  cut_and_heal({{kDecode0, kDecode1}, {kDecode1, kDecode0}});
}
TEST_F(GroupNetworkFaults, ARankOfThePrefillGroupIsNotHeard) { cut_and_heal({{kPrefill1, kPrefill0}}); }

TEST_F(GroupNetworkFaults, OnePercentOfPacketsLost) {
  for (int from = kPrefill0; from <= kDecode1; ++from)
    for (int to = kPrefill0; to <= kDecode1; ++to)
      if (from != to)
        if (const absl::Status s = hosts_->lose(from, to, 1); !s.ok()) GTEST_SKIP() << s;
  serve_on(12);
}

TEST_F(GroupNetworkFaults, FiftyMegabitsASecond) {
  for (int host = kPrefill0; host <= kDecode1; ++host)
    if (const absl::Status s = hosts_->limit_rate(host, 50); !s.ok()) GTEST_SKIP() << s;
  serve_on(12);
}

}  // namespace
}  // namespace baton::cli
