#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/cli/hosts_fixture.h"
#include "tests/cli/request_load.h"
#include "tests/support/test_certificates.h"

namespace baton::cli {

// A prefill and a decode worker on hosts of their own, of one rank or several, that serve streams while
// things break. Every stream ends whole and exact, or with an error that says so; afterwards the cluster
// serves as before. Thread: one, and those of the load.
class FaultsOnHosts : public ClusterOnHosts {
 protected:
  struct Process {
    int host = 0;
    const char* pool = "";
    const char* worker = "";  // that it speaks for; "" for a rank that is not the first
    pid_t pid = 0;
    bool kept_down = false;
  };
  struct Expectations {
    int tokens = 200;  // of an answer
    int answers = 8;   // before and after a cut
    bool serves_meanwhile = true;
    bool tls = false;  // where certificates can be made: control connection, KV and ranks
  };

  void serve(const std::string& pools, std::vector<Process> processes, const Expectations& expectations) {
    processes_ = std::move(processes);
    expectations_ = expectations;
    prompts_ = answers_of_one_process();
    const TestCertificates& certificates = TestCertificates::get();
    tls_ = expectations.tls && certificates.there();
    const std::string listen = "  control:\n    listen: \"10.77.0.2:8001\"\n";
    const char* plain = "insecureAllowPlaintextOffLoopback: true";
    manifest_ =
        tls_ ? write_manifest(listen + certificates.control_tls(), pools)
             : write_manifest(cat(listen, "    ", plain, "\n"), pools, cat("  transfer: {", plain, "}\n"));
    start_coordinator(manifest_);
    ASSERT_TRUE(ready_again());
  }
  std::unique_ptr<RequestLoad> load() {
    return std::make_unique<RequestLoad>(
        kHttp, prompts_, [this](const std::function<void()>& body) { hosts_->inside(0, body); });
  }

  bool ready_again() {
    return after_tending([&] {
      return ready(2) && std::ranges::all_of(processes_, [&](const Process& p) {
               return *p.worker == '\0' || is_process(p.worker, p.pid);
             });
    });
  }
  // So many more answers come whole.
  bool serves(const RequestLoad& load, int answers) {
    const int before = load.whole();
    return after_tending([&] { return load.whole() >= before + answers; });
  }
  // Who runs the machines starts a process anew that has ended: a worker whose life was given up ends itself,
  // one that had no processor for 1.5 s too.
  bool after_tending(const std::function<bool()>& done) {
    return eventually(
        [&] {
          for (Process& p : processes_)
            if (!p.kept_down && (p.pid == 0 || ended(p.pid))) p.pid = start_worker(p.host, manifest_, p.pool);
          return done();
        },
        std::chrono::seconds(120));
  }

  // Requests under way while `cuts` (from, to) hold, and after. A cut is longer than it takes to find a
  // silent peer dead (1.5 s) and a piece of KV late.
  void cut_and_heal(const std::vector<std::pair<int, int>>& cuts) {
    const auto running = load();
    ASSERT_TRUE(serves(*running, expectations_.answers));
    for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts_->cut(from, to).ok());
    std::this_thread::sleep_for(std::chrono::seconds(4));
    EXPECT_TRUE(!expectations_.serves_meanwhile || serves(*running, 4)) << "nothing is served during the cut";
    for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts_->heal(from, to).ok());
    ASSERT_TRUE(ready_again());
    EXPECT_TRUE(serves(*running, expectations_.answers));
    end(*running);
  }
  // On a network that is bad all the time. Returns how many streams ended with an error.
  int serve_on(int answers) {
    const auto running = load();
    EXPECT_TRUE(serves(*running, answers));
    end(*running);
    return running->failed();
  }
  // No stream was wrong; both workers and their connection are back, and answers are exact again.
  void end(RequestLoad& load) {
    load.stop();
    EXPECT_THAT(load.wrong(), ::testing::IsEmpty());
    std::printf("%d whole, %d ended with an error\n", load.whole(), load.failed());
    ASSERT_TRUE(ready_again());
    EXPECT_TRUE(after_tending([&] { return is_exact(prompts_[0]) && on_lane_socket(); }));
    EXPECT_TRUE(eventually([&] { return holds_nothing("prefill-0") && holds_nothing("decode-0"); }));
  }

  // By both workers. An answer with other tokens is a failure, one by a single worker or none is not.
  bool is_exact(const RequestLoad::Prompt& prompt) {
    const Answer answer = generate(prompt.text, expectations_.tokens);
    EXPECT_TRUE(answer.status != 200 || token_ids(answer) == prompt.tokens) << answer.body;
    return answer.path == "remote-prefill";
  }
  bool on_lane_socket() {
    const boost::json::object w = worker("decode-0");
    if (w.empty() || w.at("links").as_array().empty()) return false;
    return w.at("links").at(0).at("lane").as_string() == (tls_ ? "socket-tls" : "socket");
  }

  std::vector<RequestLoad::Prompt> prompts_;
  std::string manifest_;
  bool tls_ = false;
  std::vector<Process> processes_;

 private:
  static std::vector<int64_t> token_ids(const Answer& answer) {
    std::vector<int64_t> out;
    const boost::json::value ids = boost::json::parse(answer.tokens);
    for (const auto& id : ids.as_array()) out.push_back(id.to_number<int64_t>());
    return out;
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
      out.push_back({.text = text, .tokens = token_ids(generate(text, expectations_.tokens))});
      EXPECT_EQ(out.back().tokens.size(), static_cast<size_t>(expectations_.tokens));
    }
    stop();
    return out;
  }
  // The coordinator speaks of this life of the worker, not of one that has just died.
  bool is_process(const std::string& name, pid_t process) {
    const boost::json::object w = worker(name);
    return !w.empty() && w.at("pid").to_number<pid_t>() == process;
  }
  bool holds_nothing(const std::string& name) {
    const boost::json::object w = worker(name);
    if (w.empty()) return false;
    const auto& kv = w.at("kv_blocks").as_object();
    const auto blocks = [&](const char* what) { return kv.at(what).to_number<int64_t>(); };
    return w.at("transfers_open").to_number<int64_t>() == 0 && blocks("active") == 0 &&
           blocks("free") + blocks("cached") == blocks("total");
  }

  Expectations expectations_;
};

}  // namespace baton::cli
