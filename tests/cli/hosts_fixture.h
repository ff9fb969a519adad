#pragma once

#include <gmock/gmock.h>
#include <sys/wait.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "base/cat.h"
#include "cli/cluster/http_client.h"
#include "tests/support/network_hosts.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::cli {

// A cluster on several hosts (network namespaces) with real processes: coordinator on host 0, workers where a
// test starts them. Waits are bounded and only a hang reaches their ends. Thread: one.
class ClusterOnHosts : public ::testing::Test {
 protected:
  static constexpr const char* kHttp = "127.0.0.1:8000";  // every host has ports of its own
  static constexpr const char* kHosts[] = {"10.77.0.2", "10.77.1.2", "10.77.2.2", "10.77.3.2", "10.77.4.2"};
  virtual int host_count() const { return 3; }

  virtual std::string model() const {
    const char* shared = std::getenv("BATON_SHARED");
    const char* source = std::getenv("BATON_SOURCE_DIR");
    const std::string root = shared != nullptr ? shared : cat(source == nullptr ? "." : source, "/../shared");
    return std::filesystem::absolute(root + "/models/stories260K-f32.gguf").lexically_normal();
  }

  void SetUp() override {
    if (!std::filesystem::exists(model())) GTEST_SKIP() << model() << " is not there";
    auto made = NetworkHosts::make(host_count());
    if (!made.ok()) GTEST_SKIP() << made.status();
    hosts_ = *std::move(made);
    ::setenv("BATON_HOME", directory_.path().c_str(), 1);
    std::filesystem::create_directories(directory_.file("state/logs"));
  }
  void TearDown() override {
    stop();
    if (HasFailure()) print_logs();
  }

  // `control` and `more` are lines below spec; `name` of the file in the test's folder.
  std::string write_manifest(const std::string& control, const std::string& pools,
                             const std::string& more = "", const std::string& name = "m.yaml") {
    std::ofstream(directory_.file(name))
        << "apiVersion: baton/v1\nkind: Cluster\nspec:\n  model: {source: " << model()
        << "}\n  gateway: {listen: \"" << kHttp << "\"}\n"
        << control << "  pools: {" << pools << "}\n"
        << more;
    return directory_.file(name);
  }

  pid_t start(int host, const std::vector<std::string>& arguments) {
    std::vector<std::string> command{BATON_BINARY};
    command.insert(command.end(), arguments.begin(), arguments.end());
    if (arguments[0] == "worker" || arguments[0] == "coordinator")
      command.insert(command.end(), {"--log-dir", directory_.file("state/logs")});
    children_.push_back(hosts_->start_inside(host, command));
    return children_.back();
  }
  pid_t start_coordinator(const std::string& manifest) {
    return start(0, {"coordinator", "--manifest", manifest});
  }
  pid_t start_worker(int host, const std::string& manifest, const std::string& pool) {
    return start(host, {"worker", "--manifest", manifest, "--pool", pool});
  }
  void kill(pid_t child, int signal = SIGKILL) {
    ::kill(child, signal);
    if (signal == SIGKILL) wait_for(child);
  }
  // Its exit code, or 128 + signal.
  int wait_for(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    std::erase(children_, child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  bool ended(pid_t child) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) != child) return false;
    std::erase(children_, child);
    // Nobody but this test ends a worker by a signal: a peer's death is no reason to die (design I8).
    EXPECT_TRUE(!WIFSIGNALED(status) || WTERMSIG(status) == SIGKILL)
        << "crashed, signal " << WTERMSIG(status);
    return true;
  }
  void stop() {
    for (const pid_t child : children_) ::kill(child, SIGKILL);
    for (const pid_t child : children_) ::waitpid(child, nullptr, 0);
    children_.clear();
  }

  // A GET (json empty) or POST on host 0.
  absl::StatusOr<HttpReply> ask(const std::string& target, const std::string& json = "") {
    absl::StatusOr<HttpReply> reply = absl::UnknownError("not asked");
    hosts_->inside(0, [&] {
      HttpClient client(kHttp, std::chrono::seconds(60));
      reply = json.empty() ? client.get(target) : client.post(target, json);
    });
    return reply;
  }
  // False when `done` does not come true; half a minute is far beyond every timer of the design.
  static bool eventually(const std::function<bool()>& done,
                         std::chrono::seconds limit = std::chrono::seconds(30)) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return true;
  }

  boost::json::array workers() {
    const auto reply = ask("/admin/v1/workers");
    if (!reply.ok() || reply->status != 200) return {};
    return boost::json::parse(reply->body).as_array();
  }
  boost::json::object worker(const std::string& name) {
    const boost::json::array all = workers();
    for (const auto& w : all)
      if (w.at("name").as_string() == name) return w.as_object();
    return {};
  }
  // So many workers are ready, and each pair of them that was asked to is connected.
  bool ready(size_t count) {
    const boost::json::array all = workers();
    size_t good = 0;
    for (const auto& w : all) {
      bool up = w.at("state").as_string() == "ready";
      for (const auto& link : w.at("links").as_array()) up = up && link.at("state").as_string() == "up";
      good += up;
    }
    return good == count && all.size() == count;
  }

  struct Answer {
    int status = 0;
    std::string tokens;  // ids as JSON; "" without an answer
    std::string path;    // x-baton-path
    std::string body;
  };
  Answer generate(const std::string& prompt = "Once upon a time there was a little girl", int tokens = 40) {
    Answer out;
    const auto reply =
        ask("/v1/completions", cat(R"({"model":"default","prompt":")", prompt, R"(","max_tokens":)", tokens,
                                   R"(,"temperature":0,"ignore_eos":true,"return_token_ids":true})"));
    if (!reply.ok()) {
      out.body = reply.status().ToString();
      return out;
    }
    out.status = reply->status;
    out.body = reply->body;
    if (const auto path = reply->headers.find("x-baton-path"); path != reply->headers.end())
      out.path = path->second;
    if (reply->status == 200)
      out.tokens =
          boost::json::serialize(boost::json::parse(reply->body).at("choices").at(0).at("token_ids"));
    return out;
  }

  std::string log_of(const std::string& process) {
    return baton::testing::read_file(directory_.file(cat("state/logs/", process, ".log")));
  }
  void print_logs() {
    for (const auto& entry : std::filesystem::directory_iterator(directory_.file("state/logs")))
      std::fprintf(stderr, "== %s\n%s", entry.path().filename().c_str(),
                   baton::testing::read_file(entry.path().string()).c_str());
  }

  baton::testing::TempDir directory_{"cluster-on-hosts"};
  std::unique_ptr<NetworkHosts> hosts_;
  std::vector<pid_t> children_;
};

}  // namespace baton::cli
