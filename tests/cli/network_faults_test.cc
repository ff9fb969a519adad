// A cluster on three hosts while things break: kill -9 of a worker, links cut both ways and one way, losses,
// a slow network. Every stream ends whole and exact, or with an error that says so; afterwards the cluster
// serves as before.
#include "tests/cli/hosts_fixture.h"
#include "tests/cli/request_load.h"

namespace baton::cli {
namespace {

using namespace std::chrono_literals;

constexpr int kCoordinator = 0, kPrefill = 1, kDecode = 2;  // hosts
constexpr int kTokens = 200;
// Longer than it takes to find a silent peer dead (1.5 s) and a piece of KV late.
constexpr auto kLongEnough = 4s;

class NetworkFaults : public ClusterOnHosts {
 protected:
  void SetUp() override {
    ClusterOnHosts::SetUp();
    if (IsSkipped() || HasFailure()) return;
    prompts_ = answers_of_one_process();
    manifest_ =
        write_manifest("  control: {listen: \"10.77.0.2:8001\", insecureAllowPlaintextOffLoopback: true}\n",
                       "prefill: {kv: {memory: 8Mi}}, decode: {kv: {memory: 8Mi}}",
                       "  transfer: {insecureAllowPlaintextOffLoopback: true}\n");
    start_coordinator(manifest_);
    prefill_ = start_worker(kPrefill, manifest_, "prefill");
    decode_ = start_worker(kDecode, manifest_, "decode");
    ASSERT_TRUE(eventually([&] { return ready(2); }));
  }

  std::vector<RequestLoad::Prompt> answers_of_one_process() {
    const std::string one =
        write_manifest("  control: {listen: \"127.0.0.1:8001\"}\n", "any: {kv: {memory: 8Mi}}");
    start_coordinator(one);
    start_worker(0, one, "any");
    EXPECT_TRUE(eventually([&] { return ready(1); }));
    std::vector<RequestLoad::Prompt> out;
    for (const char* text : {"Once upon a time there was a little girl", "Tom had a red ball and a blue car",
                             "Lily likes cats and dogs", "One day a bird saw a big tree in the park"}) {
      RequestLoad::Prompt prompt{.text = text, .tokens = {}};
      const boost::json::value ids = boost::json::parse(generate(text, kTokens).tokens);
      for (const auto& id : ids.as_array()) prompt.tokens.push_back(id.to_number<int64_t>());
      EXPECT_EQ(prompt.tokens.size(), size_t{kTokens});
      out.push_back(std::move(prompt));
    }
    stop();
    return out;
  }

  std::unique_ptr<RequestLoad> load() {
    return std::make_unique<RequestLoad>(
        kHttp, prompts_, [this](const std::function<void()>& body) { hosts_->inside(kCoordinator, body); });
  }

  // Who runs the machines starts a process anew that has ended: a worker whose life was given up ends itself,
  // one that had no processor for 1.5 s too.
  void tend() {
    if (prefill_ > 0 && ended(prefill_)) prefill_ = start_worker(kPrefill, manifest_, "prefill");
    if (decode_ > 0 && ended(decode_)) decode_ = start_worker(kDecode, manifest_, "decode");
  }
  bool ready_again() {
    return eventually(
        [&] {
          tend();
          return ready(2) && is_process("prefill-0", prefill_) && is_process("decode-0", decode_);
        },
        60s);
  }
  // So many more answers come whole.
  bool serves(const RequestLoad& load, int answers) {
    const int before = load.whole();
    return eventually(
        [&] {
          tend();
          return load.whole() >= before + answers;
        },
        60s);
  }
  // The coordinator speaks of this life of the worker, not of one that has just died.
  bool is_process(const std::string& name, pid_t process) {
    const boost::json::object w = worker(name);
    return !w.empty() && w.at("pid").to_number<pid_t>() == process;
  }
  // After the fault: both workers and their connection are back, and answers are exact again.
  void expect_as_before() {
    ASSERT_TRUE(ready_again());
    EXPECT_TRUE(eventually([&] {
      tend();
      return generate().path == "remote-prefill" && on_lane_socket();
    }));
    EXPECT_TRUE(eventually([&] { return holds_nothing("prefill-0") && holds_nothing("decode-0"); }));
  }
  bool on_lane_socket() {
    const boost::json::object w = worker("decode-0");
    if (w.empty() || w.at("links").as_array().empty()) return false;
    return w.at("links").at(0).at("lane").as_string() == "socket";
  }
  bool holds_nothing(const std::string& name) {
    const boost::json::object w = worker(name);
    if (w.empty()) return false;
    const auto& kv = w.at("kv_blocks").as_object();
    const auto blocks = [&](const char* what) { return kv.at(what).to_number<int64_t>(); };
    return w.at("transfers_open").to_number<int64_t>() == 0 && blocks("active") == 0 &&
           blocks("free") + blocks("cached") == blocks("total");
  }
  static void expect_clean(const RequestLoad& load) {
    EXPECT_THAT(load.wrong(), ::testing::IsEmpty());
    std::printf("%d whole, %d ended with an error\n", load.whole(), load.failed());
  }
  // Requests under way while `cuts` (from, to) hold, and after.
  void cut_and_heal(const std::vector<std::pair<int, int>>& cuts) {
    const auto running = load();
    ASSERT_TRUE(serves(*running, 8));
    for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts_->cut(from, to).ok());
    std::this_thread::sleep_for(kLongEnough);
    EXPECT_TRUE(serves(*running, 4)) << "nothing is served during the cut";
    for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts_->heal(from, to).ok());
    ASSERT_TRUE(ready_again());
    EXPECT_TRUE(serves(*running, 8));
    running->stop();
    expect_clean(*running);
    expect_as_before();
  }

  std::vector<RequestLoad::Prompt> prompts_;
  std::string manifest_;
  pid_t prefill_ = 0, decode_ = 0;
};

TEST_F(NetworkFaults, KilledWorkersComeBackAsNewLives) {
  const auto running = load();
  for (int round = 0; round < 5; ++round)
    for (pid_t* victim : {&decode_, &prefill_}) {
      ASSERT_TRUE(serves(*running, 4));
      std::this_thread::sleep_for(std::chrono::milliseconds(7 * round));
      kill(*victim);
      *victim = 0;
      EXPECT_TRUE(serves(*running, 4)) << "the other worker does not serve";
      *victim = victim == &decode_ ? start_worker(kDecode, manifest_, "decode")
                                   : start_worker(kPrefill, manifest_, "prefill");
      ASSERT_TRUE(ready_again());
    }
  running->stop();
  expect_clean(*running);
  expect_as_before();
}

TEST_F(NetworkFaults, CoordinatorAndDecodeCut) {
  cut_and_heal({{kCoordinator, kDecode}, {kDecode, kCoordinator}});
}
TEST_F(NetworkFaults, CoordinatorToDecodeCut) { cut_and_heal({{kCoordinator, kDecode}}); }
TEST_F(NetworkFaults, DecodeToCoordinatorCut) { cut_and_heal({{kDecode, kCoordinator}}); }
TEST_F(NetworkFaults, CoordinatorAndPrefillCut) {
  cut_and_heal({{kCoordinator, kPrefill}, {kPrefill, kCoordinator}});
}
TEST_F(NetworkFaults, PairCut) { cut_and_heal({{kPrefill, kDecode}, {kDecode, kPrefill}}); }
TEST_F(NetworkFaults, PrefillToDecodeCut) { cut_and_heal({{kPrefill, kDecode}}); }
TEST_F(NetworkFaults, DecodeToPrefillCut) { cut_and_heal({{kDecode, kPrefill}}); }

TEST_F(NetworkFaults, OnePercentOfPacketsLost) {
  for (int from = 0; from < 3; ++from)
    for (int to = 0; to < 3; ++to)
      if (from != to)
        if (const absl::Status s = hosts_->lose(from, to, 1); !s.ok()) GTEST_SKIP() << s;
  const auto running = load();
  EXPECT_TRUE(serves(*running, 40));
  running->stop();
  expect_clean(*running);
  expect_as_before();
}

TEST_F(NetworkFaults, FiftyMegabitsASecond) {
  for (int host = 0; host < 3; ++host)
    if (const absl::Status s = hosts_->limit_rate(host, 50); !s.ok()) GTEST_SKIP() << s;
  const auto running = load();
  EXPECT_TRUE(serves(*running, 40));
  running->stop();
  expect_clean(*running);
  EXPECT_EQ(running->failed(), 0) << "slow is no fault";
  expect_as_before();
}

}  // namespace
}  // namespace baton::cli
