// Coordinator, prefill worker and decode worker on three hosts (network namespaces): real processes, mutual
// TLS with certificates made here, KV over the socket lane, the tokens of one process.
#include "tests/cli/hosts_fixture.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;

constexpr const char* kPools = "prefill: {kv: {memory: 8Mi}}, decode: {kv: {memory: 8Mi}}";
constexpr const char* kPlainKv = "  transfer: {insecureAllowPlaintextOffLoopback: true}\n";
constexpr const char* kPlain =
    "  control: {listen: \"10.77.0.2:8001\", insecureAllowPlaintextOffLoopback: true}\n";

class ThreeHosts : public ClusterOnHosts {
 protected:
  bool openssl(const std::string& arguments) {
    return std::system(
               cat("cd ", directory_.path(), " && openssl ", arguments, " >/dev/null 2>&1").c_str()) == 0;
  }
  bool make_ca(const std::string& name) {
    return openssl(cat("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ", name,
                       ".key -out ", name, ".pem -subj /CN=", name));
  }
  bool make_certificate(const std::string& file, const std::string& ca, const std::string& name) {
    std::ofstream(directory_.file(file + ".ext")) << "subjectAltName=DNS:" << name << "\n";
    return openssl(cat("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ", file, ".key -out ",
                       file, ".csr -subj /CN=", name)) &&
           openssl(cat("x509 -req -days 2 -in ", file, ".csr -CA ", ca, ".pem -CAkey ", ca,
                       ".key -CAcreateserial -out ", file, ".pem -extfile ", file, ".ext"));
  }
  // The control section of a manifest: which CA a process trusts, and which certificate a worker shows.
  static std::string tls(const std::string& ca, const std::string& worker) {
    return cat("  control:\n    listen: \"10.77.0.2:8001\"\n    tls:\n      ca: ", ca,
               ".pem\n      coordinator: {certificate: coordinator.pem, key: coordinator.key}\n"
               "      worker: {certificate: ",
               worker, ".pem, key: ", worker, ".key}\n");
  }
  // The tokens of one process on one machine.
  std::string tokens_of_one_process() {
    const std::string one =
        write_manifest("  control: {listen: \"127.0.0.1:8001\"}\n", "any: {kv: {memory: 8Mi}}");
    start_coordinator(one);
    start_worker(0, one, "any");
    EXPECT_TRUE(eventually([&] { return ready(1); }));
    std::string out = generate().tokens;
    stop();
    return out;
  }
};

TEST_F(ThreeHosts, TokensOfOneProcessOverMutualTls) {
  const std::string want = tokens_of_one_process();
  ASSERT_NE(want, "");
  if (!make_ca("ca") || !make_certificate("coordinator", "ca", "coordinator") ||
      !make_certificate("worker", "ca", "worker"))
    GTEST_SKIP() << "the openssl command is not there or failed";
  const std::string manifest = write_manifest(tls("ca", "worker"), kPools, "");
  start_worker(2, manifest, "decode");  // before the coordinator: it is waited for
  start_coordinator(manifest);
  start_worker(1, manifest, "prefill");
  ASSERT_TRUE(eventually([&] { return ready(2); }));
  for (int i = 0; i < 3; ++i) {
    const Answer answer = generate();
    EXPECT_EQ(answer.tokens, want);
    EXPECT_EQ(answer.path, "remote-prefill");
  }
  const boost::json::object prefill = worker("prefill-0"), decode = worker("decode-0");
  EXPECT_THAT(std::string(prefill.at("address").as_string()), HasSubstr(kHosts[1]));
  EXPECT_THAT(std::string(decode.at("address").as_string()), HasSubstr(kHosts[2]));
  EXPECT_THAT(std::string(decode.at("data_address").as_string()), HasSubstr(cat("tls:", kHosts[2])));
  EXPECT_EQ(decode.at("links").at(0).at("lane").as_string(), "socket-tls")
      << "another host's memory was used";
  EXPECT_EQ(decode.at("links").at(0).at("peer").as_string(), "prefill-0");
}

TEST_F(ThreeHosts, AWrongCertificateIsRefusedAndSaidOnBothEnds) {
  if (!make_ca("ca") || !make_ca("other") || !make_certificate("coordinator", "ca", "coordinator") ||
      !make_certificate("worker", "ca", "worker") || !make_certificate("stranger", "other", "worker") ||
      !make_certificate("unnamed", "ca", "somebody"))
    GTEST_SKIP() << "the openssl command is not there or failed";
  const std::string good = write_manifest(tls("ca", "worker"), kPools, kPlainKv);
  start_coordinator(good);
  start_worker(2, good, "decode");
  ASSERT_TRUE(eventually([&] { return ready(1); }));
  // It does not trust the coordinator, nor the coordinator it: it keeps trying, and is not let in.
  start_worker(1, write_manifest(tls("other", "stranger"), kPools, kPlainKv, "stranger.yaml"), "prefill");
  EXPECT_TRUE(
      eventually([&] { return log_of("prefill-0").find("not signed by our CA") != std::string::npos; }));
  EXPECT_TRUE(
      eventually([&] { return log_of("coordinator").find("a TLS handshake failed") != std::string::npos; }));
  EXPECT_EQ(workers().size(), 1u);
  // Wrong files are found before anybody connects.
  EXPECT_NE(wait_for(start_worker(1, write_manifest(tls("ca", "unnamed"), kPools, kPlainKv, "unnamed.yaml"),
                                  "prefill")),
            0);
  EXPECT_THAT(log_of("prefill-0"), HasSubstr("does not carry the name 'worker'"));
  EXPECT_NE(wait_for(start_worker(1, write_manifest(tls("ca", "missing"), kPools, kPlainKv, "missing.yaml"),
                                  "prefill")),
            0);
  EXPECT_THAT(log_of("prefill-0"), HasSubstr("missing.pem: No such file"));
  // The right one is let in as if nothing had been.
  start_worker(1, good, "prefill");
  EXPECT_TRUE(eventually([&] { return ready(2); }));
  EXPECT_EQ(generate().path, "remote-prefill");
}

TEST_F(ThreeHosts, ValidateLooksAtTheCertificatesOfThisMachine) {
  if (!make_ca("ca") || !make_certificate("coordinator", "ca", "coordinator") ||
      !make_certificate("worker", "ca", "worker") || !make_certificate("unnamed", "ca", "somebody"))
    GTEST_SKIP() << "the openssl command is not there or failed";
  const auto validate = [&](const std::string& control) {
    return wait_for(start(0, {"validate", write_manifest(control, kPools, kPlainKv)}));
  };
  EXPECT_EQ(validate(tls("ca", "worker")), 0);
  EXPECT_EQ(validate(tls("ca", "elsewhere")), 0) << "a machine without workers has no worker's certificate";
  EXPECT_NE(validate(tls("ca", "unnamed")), 0);
  EXPECT_NE(validate(tls("missing", "worker")), 0);
  const std::string nothing_here = R"(  control:
    listen: "10.77.0.2:8001"
    tls:
      ca: a.pem
      coordinator: {certificate: b.pem, key: b.key}
      worker: {certificate: c.pem, key: c.key}
)";
  EXPECT_EQ(validate(nothing_here), 0) << "where the manifest was written there may be none";
}

TEST_F(ThreeHosts, NothingGoesPlainOverTheNetworkUnlessAllowed) {
  const auto refused = [&](const std::string& control, const std::string& more, const char* why) {
    const std::string manifest = write_manifest(control, kPools, more, "refused.yaml");
    EXPECT_NE(wait_for(start_worker(1, manifest, "prefill")), 0);
    EXPECT_THAT(log_of("prefill-0"), HasSubstr(why));
  };
  refused("  control: {listen: \"10.77.0.2:8001\"}\n", kPlainKv,
          "nothing protects requests and tokens there");
  refused(kPlain, "", "KV travels without TLS");
  const std::string manifest = write_manifest("", kPools);
  EXPECT_NE(
      wait_for(start(1, {"worker", "--manifest", manifest, "--pool", "prefill", "--join", "10.77.0.2:8001"})),
      0);
  EXPECT_THAT(log_of("prefill-0"), HasSubstr("would listen on 10.77.1.2"));
}

TEST_F(ThreeHosts, AWorkerThatNobodyCouldReachIsTold) {
  const std::string manifest = write_manifest(kPlain, kPools, kPlainKv);
  start_coordinator(manifest);
  start(1, {"worker", "--manifest", manifest, "--pool", "prefill", "--listen", "127.0.0.1"});
  EXPECT_TRUE(
      eventually([&] { return log_of("prefill-0").find("start it with --listen") != std::string::npos; }));
  EXPECT_EQ(workers().size(), 0u);
}

// A firewall, or a wrong --advertise: the worker joins, but nobody gets through to it.
TEST_F(ThreeHosts, AWorkerThatCannotBeConnectedToIsNamedByTheCoordinator) {
  const std::string manifest = write_manifest(kPlain, kPools, kPlainKv);
  start_coordinator(manifest);
  start(1, {"worker", "--manifest", manifest, "--pool", "prefill", "--advertise", kHosts[2]});
  EXPECT_TRUE(eventually(
      [&] { return log_of("coordinator").find("worker cannot be reached") != std::string::npos; }));
}

// `baton serve` of one file on every machine: each starts what `hosts` puts there, and starts it anew.
TEST_F(ThreeHosts, ServeStartsOnEachMachineWhatBelongsThere) {
  const std::string want = tokens_of_one_process();
  const std::string manifest =
      write_manifest(kPlain,
                     cat("prefill: {kv: {memory: 8Mi}, hosts: [", kHosts[1],
                         "]}, decode: {kv: {memory: 8Mi}, hosts: [", kHosts[2], "]}"),
                     kPlainKv);
  for (int host = 0; host < 3; ++host) {
    const std::string home = directory_.file(cat("home", host));
    std::filesystem::create_directories(home);
    children_.push_back(
        hosts_->start_inside(host, {"env", cat("BATON_HOME=", home), BATON_BINARY, "serve", "-f", manifest}));
  }
  ASSERT_TRUE(eventually([&] { return ready(2); }));
  EXPECT_EQ(generate().tokens, want);
  EXPECT_THAT(std::string(worker("decode-0").at("address").as_string()), HasSubstr(kHosts[2]));
  const pid_t first = worker("decode-0").at("pid").to_number<pid_t>();
  ::kill(first, SIGKILL);
  EXPECT_TRUE(eventually([&] {
    const boost::json::object again = worker("decode-0");
    return !again.empty() && again.at("pid").to_number<pid_t>() != first && ready(2);
  }));
  EXPECT_TRUE(eventually([&] { return generate().tokens == want; }));
}

// Machines are started in any order: whoever comes before the coordinator says that it waits for it.
TEST_F(ThreeHosts, ServeSaysWhoHasNotJoined) {
  const std::string manifest = write_manifest(
      kPlain, cat("prefill: {kv: {memory: 8Mi}, hosts: [", kHosts[1], "]}, decode: {}"), kPlainKv);
  const std::string home = directory_.file("home"), said = directory_.file("said");
  std::filesystem::create_directories(home);
  const auto baton = [&](const std::string& arguments) {
    return wait_for(hosts_->start_inside(
        1, {"sh", "-c", cat("BATON_HOME=", home, " ", BATON_BINARY, " ", arguments, " >", said, " 2>&1")}));
  };
  EXPECT_EQ(baton(cat("serve --detach -f ", manifest)), 0);
  std::ostringstream text;
  text << std::ifstream(said).rdbuf();
  EXPECT_THAT(text.str(), HasSubstr("not joined yet: prefill-0; they go on trying until a coordinator "
                                    "answers at 10.77.0.2:8001"));
  EXPECT_EQ(baton("down"), 0);
}

TEST_F(ThreeHosts, ALinkToAWorkerWhoseKvIsOnLoopbackSaysSo) {
  const std::string manifest = write_manifest(kPlain, kPools, kPlainKv);
  start_coordinator(manifest);
  start(1, {"worker", "--manifest", manifest, "--pool", "prefill", "--data", "127.0.0.1"});
  start_worker(2, manifest, "decode");
  const auto error = [&]() -> std::string {
    const boost::json::object decode = worker("decode-0");
    if (decode.empty() || decode.at("links").as_array().empty()) return "";
    const auto& link = decode.at("links").at(0).as_object();
    return link.contains("error") ? std::string(link.at("error").as_string()) : "";
  };
  EXPECT_TRUE(eventually([&] { return error().contains("prefill-0 listens for KV on"); })) << error();
  EXPECT_THAT(error(), HasSubstr("start it with --data ADDRESS"));
}

TEST_F(ThreeHosts, MetricsOfAWorkerAreReadFromAnotherMachineWhenAllowed) {
  const std::string manifest =
      write_manifest(kPlain,
                     "any: {kv: {memory: 8Mi}, network: {metrics: 10.77.0.0/16, metricsPort: 9100, "
                     "insecureAllowPlaintextMetricsOffLoopback: true}}",
                     kPlainKv);
  start_coordinator(manifest);
  start_worker(2, manifest, "any");
  ASSERT_TRUE(eventually([&] { return ready(1); }));
  const std::string address(worker("any-0").at("metrics_address").as_string());
  EXPECT_EQ(address, cat(kHosts[2], ":9100"));
  hosts_->inside(0, [&] {
    const auto reply = HttpClient(address, std::chrono::seconds(30)).get("/metrics");
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_THAT(reply->body, HasSubstr("baton_kv_blocks"));
  });
}

// No flag and no orchestrator: every rank finds itself by its machine's address.
TEST_F(ThreeHosts, RanksFindThemselvesByHosts) {
  const std::string want = tokens_of_one_process();
  const std::string manifest =
      write_manifest(kPlain,
                     cat("any: {kv: {memory: 8Mi}, hosts: [", kHosts[1], ", ", kHosts[2],
                         "], parallel: {tensor: 2, insecureAllowPlaintextOffLoopback: true}}"),
                     kPlainKv);
  start_coordinator(manifest);
  start_worker(2, manifest, "any");
  start_worker(1, manifest, "any");
  ASSERT_TRUE(eventually([&] { return ready(1); }));
  EXPECT_EQ(generate().tokens, want);
  EXPECT_THAT(log_of("any-0.1"), HasSubstr("\"told_by\":\"hosts\""));
  EXPECT_THAT(std::string(worker("any-0").at("device").as_string()), HasSubstr("2 ranks over socket"));
  EXPECT_NE(wait_for(start_worker(0, manifest, "any")), 0) << "host 0 is none of them";
}

}  // namespace
}  // namespace baton::cli
