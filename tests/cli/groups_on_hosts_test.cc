// The ranks of one worker on two hosts (network namespaces): real processes, found by LeaderWorkerSet's
// variables, joined by sockets, plain and under TLS, with the tokens of one process.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/cat.h"
#include "cli/cluster/http_client.h"
#include "tests/support/network_hosts.h"
#include "tests/support/soon.h"
#include "tests/support/test_certificates.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::cli {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr const char* kHttp = "127.0.0.1:8000";  // every host has ports of its own
constexpr const char* kMembership = "127.0.0.1:8001";

std::string model() {
  const char* shared = std::getenv("BATON_SHARED");
  const char* source = std::getenv("BATON_SOURCE_DIR");
  const std::string root = shared != nullptr ? shared : cat(source == nullptr ? "." : source, "/../shared");
  return root + "/models/stories260K-f32.gguf";
}

class GroupsOnHosts : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(model())) GTEST_SKIP() << model() << " is not there";
    auto made = NetworkHosts::make(2);
    if (!made.ok()) GTEST_SKIP() << made.status();
    hosts_ = *std::move(made);
    ::setenv("BATON_HOME", directory_.path().c_str(), 1);
    std::filesystem::create_directories(directory_.file("state/logs"));
  }
  void TearDown() override { stop(); }

  void write_manifest(int tensor, int pipeline, const std::string& more = "") {
    std::ofstream(directory_.file("m.yaml"))
        << "apiVersion: baton/v1\nkind: Cluster\nspec:\n  model: {source: " << model() << "}\n"
        << control_ << "  pools:\n    any: {kv: {memory: 8Mi}, parallel: {tensor: " << tensor
        << ", pipeline: " << pipeline << more << "}}\n";
  }
  // The manifest as it is now becomes that of this rank.
  void keep_manifest(int rank) {
    std::filesystem::copy(directory_.file("m.yaml"), directory_.file(cat("m", rank, ".yaml")),
                          std::filesystem::copy_options::overwrite_existing);
  }
  // Two ranks, each with a manifest of its own: rank 1 is told what is wrong.
  void start_two_and_see_one_give_up() {
    std::filesystem::remove(directory_.file("state/logs/any-0.log"));
    start_rank(0, 0, 2, "m0.yaml");
    start_rank(1, 1, 2, "m1.yaml");
    ASSERT_TRUE(gives_up(children_.back()));
    children_.pop_back();
    stop();
  }
  // It ends by itself, and not well.
  static bool gives_up(pid_t child) {
    int status = 0;
    return support::soon([&] { return ::waitpid(child, &status, WNOHANG) == child; }) && WIFEXITED(status) &&
           WEXITSTATUS(status) != 0;
  }
  // From here on manifests have control.tls.
  void use_certificates() {
    const TestCertificates& certificates = TestCertificates::get();
    if (!certificates.there()) GTEST_SKIP() << "the openssl command is not there or failed";
    control_ = cat("  control:\n", certificates.control_tls());
  }
  // `environment`: words for env(1).
  void start(int host, std::vector<std::string> environment, const std::vector<std::string>& arguments) {
    std::vector<std::string> command{"env"};
    command.insert(command.end(), environment.begin(), environment.end());
    command.push_back(BATON_BINARY);
    command.insert(command.end(), arguments.begin(), arguments.end());
    if (arguments[0] == "worker" || arguments[0] == "coordinator")
      command.insert(command.end(), {"--log-dir", directory_.file("state/logs")});
    children_.push_back(hosts_->start_inside(host, command));
  }
  void start_rank(int host, int rank, int ranks, const char* manifest = "m.yaml") {
    start(host,
          {cat("LWS_WORKER_INDEX=", rank), cat("LWS_GROUP_SIZE=", ranks),
           cat("LWS_LEADER_ADDRESS=", hosts_->address(0))},
          {"worker", "--manifest", directory_.file(manifest), "--pool", "any", "--join", kMembership});
  }
  void start_coordinator() {
    start(0, {},
          {"coordinator", "--manifest", directory_.file("m.yaml"), "--http", kHttp, "--membership",
           kMembership});
  }
  // Stops all, the last one started first.
  void stop() {
    for (auto child = children_.rbegin(); child != children_.rend(); ++child) ::kill(*child, SIGKILL);
    for (const pid_t child : children_) ::waitpid(child, nullptr, 0);
    children_.clear();
  }
  // The body of a good answer to a GET (json empty) or POST on host 0, asked for until it comes.
  std::string ask(const std::string& target, const std::string& json, const std::string& wanted) {
    std::string body;
    hosts_->inside(0, [&] {
      for (int i = 0; i < 3000 && body.empty(); ++i) {
        HttpClient client(kHttp, 30s);
        const auto reply = json.empty() ? client.get(target) : client.post(target, json);
        if (reply.ok() && reply->status == 200 && reply->body.find(wanted) != std::string::npos)
          body = reply->body;
        if (body.empty()) std::this_thread::sleep_for(10ms);
      }
    });
    return body;
  }
  std::string tokens() {
    const std::string body = ask(
        "/v1/completions",
        R"({"model":"default","prompt":"Once upon a time","max_tokens":40,"temperature":0,"return_token_ids":true})",
        "token_ids");
    if (body.empty()) return "";
    return boost::json::serialize(boost::json::parse(body).at("choices").at(0).at("token_ids"));
  }
  std::string ready_workers() { return ask("/admin/v1/workers", "", "\"ready\""); }

  std::string control_;
  baton::testing::TempDir directory_{"groups-on-hosts"};
  std::unique_ptr<NetworkHosts> hosts_;
  std::vector<pid_t> children_;
};

constexpr const char* kPlain = ", insecureAllowPlaintextOffLoopback: true";

// Every shape: shapes_on_hosts_test.cc.
TEST_F(GroupsOnHosts, RanksFoundByLeaderWorkerSetHaveTheTokensOfOneProcess) {
  write_manifest(1, 1);
  start_coordinator();
  start(0, {}, {"worker", "--manifest", directory_.file("m.yaml"), "--pool", "any", "--join", kMembership});
  const std::string want = tokens();
  ASSERT_NE(want, "");
  stop();
  for (const bool tls : {false, true, false}) {
    control_.clear();
    if (tls) use_certificates();
    if (IsSkipped()) return;
    write_manifest(2, 2, tls ? "" : kPlain);
    start_coordinator();
    for (int rank = 3; rank >= 0; --rank) start_rank(rank / 2, rank, 4);
    EXPECT_THAT(ready_workers(), HasSubstr(tls ? "4 ranks over socket-tls, stages over shm"
                                               : "4 ranks over socket, stages over shm"));
    EXPECT_EQ(tokens(), want) << tls;
    stop();
  }
}

TEST_F(GroupsOnHosts, WithoutThePermissionForPlainSocketsARankDoesNotStart) {
  write_manifest(2, 1);
  start_rank(0, 0, 2);
  ASSERT_TRUE(gives_up(children_.back()));
  children_.clear();
}

TEST_F(GroupsOnHosts, ARankWithoutTlsAndOneWithItRefuseEachOther) {
  use_certificates();
  if (IsSkipped()) return;
  for (const bool zero_is_plain : {false, true}) {
    SCOPED_TRACE(zero_is_plain);
    for (const int rank : {0, 1}) {
      write_manifest(2, 1, (rank == 0) == zero_is_plain ? kPlain : "");
      keep_manifest(rank);
    }
    start_two_and_see_one_give_up();
    for (const char* log : {"any-0.log", "any-0.1.log"})
      EXPECT_THAT(baton::testing::read_file(directory_.file(cat("state/logs/", log))),
                  HasSubstr("give all ranks of the worker the same control.tls"))
          << log;
  }
}

// Each by itself could work; together they would hold some layers twice and others never.
TEST_F(GroupsOnHosts, RanksThatNameOtherStagesRefuseEachOther) {
  for (const char* zero : {", stageLayers: [3, 2]", ""}) {
    SCOPED_TRACE(zero);
    const std::string layers[] = {zero, ", stageLayers: [4, 1]"};
    for (const int rank : {0, 1}) {
      write_manifest(1, 2, layers[rank] + kPlain);
      keep_manifest(rank);
    }
    start_two_and_see_one_give_up();
    const std::string log = baton::testing::read_file(directory_.file("state/logs/any-0.log"));
    EXPECT_THAT(log, HasSubstr("the build differs"));
    EXPECT_THAT(log,
                HasSubstr(zero[0] == 0 ? "pipeline 2 of measured layers" : "pipeline 2 of 3 + 2 layers"));
    EXPECT_THAT(log, HasSubstr("pipeline 2 of 4 + 1 layers"));
  }
}

class LostRank : public GroupsOnHosts, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Lanes, LostRank, ::testing::Bool(),
                         [](const auto& i) { return i.param ? "socket_tls" : "socket"; });

// A stopped one is missed by the others after 1.5 s of their own time.
TEST_P(LostRank, OnTheOtherHostEndsTheGroup) {
  if (GetParam()) use_certificates();
  if (IsSkipped()) return;
  write_manifest(2, 1, GetParam() ? "" : kPlain);
  start_coordinator();
  start_rank(1, 1, 2);
  start_rank(0, 0, 2);
  ASSERT_NE(ready_workers(), "");
  for (const int number : {SIGKILL, SIGSTOP}) {
    const pid_t zero = children_[2];
    const auto begin = std::chrono::steady_clock::now();
    ::kill(children_[1], number);
    ASSERT_TRUE(gives_up(zero));  // its life is over: who started it starts it again
    std::printf("rank 0 ended %.3f s after signal %d\n",
                std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), number);
    ::kill(children_[1], SIGKILL);
    ASSERT_EQ(::waitpid(children_[1], nullptr, 0), children_[1]);
    children_.resize(1);
    start_rank(1, 1, 2);
    start_rank(0, 0, 2);
    EXPECT_NE(tokens(), "");
  }
}

}  // namespace
}  // namespace baton::cli
