// A prefill group and a decode group whose ranks are on four hosts, one each, while links between them break:
// KV goes from each prefill rank to each decode rank over a network. Every stream ends whole and exact, or
// with an error that says so; afterwards the cluster serves as before.
#include "tests/cli/hosts_fixture.h"
#include "tests/cli/request_load.h"

namespace baton::cli {
namespace {

using namespace std::chrono_literals;

constexpr int kCoordinator = 0, kPrefill0 = 1, kPrefill1 = 2, kDecode0 = 3, kDecode1 = 4;  // hosts
constexpr int kTokens = 120;
constexpr int kDataPort = 7300;
// Longer than it takes to find a silent rank (1.5 s) and a piece of KV late.
constexpr auto kLongEnough = 4s;

class GroupNetworkFaults : public ClusterOnHosts {
 protected:
  int host_count() const override { return 5; }

  void SetUp() override {
    ClusterOnHosts::SetUp();
    if (IsSkipped() || HasFailure()) return;
    prompts_ = answers_of_one_process();
    manifest_ =
        write_manifest("  control: {listen: \"10.77.0.2:8001\", insecureAllowPlaintextOffLoopback: true}\n",
                       cat(pool("prefill", "tensor: 2", kPrefill0, kPrefill1), ", ",
                           pool("decode", "pipeline: 2", kDecode0, kDecode1)),
                       "  transfer: {insecureAllowPlaintextOffLoopback: true}\n");
    start_coordinator(manifest_);
    tend();
    ASSERT_TRUE(ready_again());
  }
  static std::string pool(const char* name, const char* shape, int first, int second) {
    return cat(name, ": {kv: {memory: 8Mi}, hosts: [", kHosts[first], ", ", kHosts[second],
               "], network: {dataPort: ", kDataPort, "}, parallel: {", shape,
               ", insecureAllowPlaintextOffLoopback: true}}");
  }
  std::vector<RequestLoad::Prompt> answers_of_one_process() {
    const std::string one =
        write_manifest("  control: {listen: \"127.0.0.1:8001\"}\n", "any: {kv: {memory: 8Mi}}");
    start_coordinator(one);
    start_worker(0, one, "any");
    EXPECT_TRUE(eventually([&] { return ready(1); }));
    std::vector<RequestLoad::Prompt> out;
    for (const char* text : {"Once upon a time there was a little girl", "Tom had a red ball and a blue car",
                             "Lily likes cats and dogs"}) {
      RequestLoad::Prompt prompt{.text = text, .tokens = {}};
      const boost::json::value ids = boost::json::parse(generate(text, kTokens).tokens);
      for (const auto& id : ids.as_array()) prompt.tokens.push_back(id.to_number<int64_t>());
      out.push_back(std::move(prompt));
    }
    stop();
    return out;
  }
  std::unique_ptr<RequestLoad> load() {
    return std::make_unique<RequestLoad>(
        kHttp, prompts_, [this](const std::function<void()>& body) { hosts_->inside(kCoordinator, body); });
  }
  // Who runs the machines starts a rank anew that has ended.
  void tend() {
    for (int host = kPrefill0; host <= kDecode1; ++host)
      if (ranks_[host] == 0 || ended(ranks_[host]))
        ranks_[host] = start_worker(host, manifest_, host <= kPrefill1 ? "prefill" : "decode");
  }
  bool after_tending(const std::function<bool()>& done) {
    return eventually(
        [&] {
          tend();
          return done();
        },
        120s);
  }
  bool ready_again() {
    return after_tending(
        [&] { return ready(2) && is_process("prefill-0", kPrefill0) && is_process("decode-0", kDecode0); });
  }
  bool is_process(const std::string& name, int host) {
    const boost::json::object w = worker(name);
    return !w.empty() && w.at("pid").to_number<pid_t>() == ranks_[host];
  }
  bool serves(const RequestLoad& load, int answers) {
    const int before = load.whole();
    return after_tending([&] { return load.whole() >= before + answers; });
  }
  bool holds_nothing(const std::string& name) {
    const boost::json::object w = worker(name);
    if (w.empty()) return false;
    const auto& kv = w.at("kv_blocks").as_object();
    const auto blocks = [&](const char* what) { return kv.at(what).to_number<int64_t>(); };
    return w.at("transfers_open").to_number<int64_t>() == 0 && blocks("active") == 0 &&
           blocks("free") + blocks("cached") == blocks("total");
  }
  void expect_as_before() {
    ASSERT_TRUE(ready_again());
    EXPECT_TRUE(after_tending([&] {
      const Answer answer = generate(prompts_[0].text, kTokens);
      return answer.path == "remote-prefill";
    }));
    EXPECT_TRUE(eventually([&] { return holds_nothing("prefill-0") && holds_nothing("decode-0"); }));
  }
  static void expect_clean(const RequestLoad& load) {
    EXPECT_THAT(load.wrong(), ::testing::IsEmpty());
    std::printf("%d whole, %d ended with an error\n", load.whole(), load.failed());
  }
  // Requests under way while `cuts` (from, to) hold, and after.
  void cut_and_heal(const std::vector<std::pair<int, int>>& cuts) {
    const auto running = load();
    ASSERT_TRUE(serves(*running, 6));
    for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts_->cut(from, to).ok());
    std::this_thread::sleep_for(kLongEnough);
    for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts_->heal(from, to).ok());
    ASSERT_TRUE(ready_again());
    EXPECT_TRUE(serves(*running, 6));
    running->stop();
    expect_clean(*running);
    expect_as_before();
  }

  std::vector<RequestLoad::Prompt> prompts_;
  std::string manifest_;
  pid_t ranks_[kDecode1 + 1] = {};
};

TEST_F(GroupNetworkFaults, EachRankHandsOverItselfOnAPortOfItsOwn) {
  for (const RequestLoad::Prompt& prompt : prompts_) {
    const Answer answer = generate(prompt.text, kTokens);
    EXPECT_EQ(boost::json::parse(answer.tokens).as_array().size(), prompt.tokens.size());
    EXPECT_EQ(answer.path, "remote-prefill");
  }
  const boost::json::object prefill = worker("prefill-0"), decode = worker("decode-0");
  EXPECT_EQ(decode.at("links").at(0).at("lane").as_string(), "socket") << "another host's memory was used";
  EXPECT_EQ(prefill.at("data_address").as_string(),
            cat("ranks 2x1 socket:", kHosts[kPrefill0], ":", kDataPort, " socket:", kHosts[kPrefill1], ":",
                kDataPort + 1));
  EXPECT_EQ(decode.at("data_address").as_string(), cat("ranks 1x2 socket:", kHosts[kDecode0], ":", kDataPort,
                                                       " socket:", kHosts[kDecode1], ":", kDataPort + 1));
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
  const auto running = load();
  EXPECT_TRUE(serves(*running, 12));
  running->stop();
  expect_clean(*running);
  expect_as_before();
}

TEST_F(GroupNetworkFaults, FiftyMegabitsASecond) {
  for (int host = kPrefill0; host <= kDecode1; ++host)
    if (const absl::Status s = hosts_->limit_rate(host, 50); !s.ok()) GTEST_SKIP() << s;
  const auto running = load();
  EXPECT_TRUE(serves(*running, 12));
  running->stop();
  expect_clean(*running);
  expect_as_before();
}

}  // namespace
}  // namespace baton::cli
