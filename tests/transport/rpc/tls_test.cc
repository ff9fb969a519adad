// Mutual TLS with names: certificates are made by the openssl command in a temporary folder.
#include <gmock/gmock.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/transport/rpc/event_log.h"
#include "transport/rpc/control_client.h"
#include "transport/rpc/control_server.h"
#include "transport/rpc/handshake_log.h"
#include "transport/rpc/membership_client.h"
#include "transport/rpc/membership_server.h"
#include "transport/rpc/tls_files.h"

namespace baton::transport {
namespace {

class TlsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string name = (std::filesystem::temp_directory_path() / "baton_tls_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder = name;
    made = make_ca("ca") && make_ca("other") && make_certificate("coordinator", "ca") &&
           make_certificate("worker", "ca") && make_certificate("stranger", "other") &&
           make_certificate("short", "ca", 1);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder); }
  void SetUp() override {
    if (!made) GTEST_SKIP() << "the openssl command is not there or failed";
  }

  static bool openssl(const std::string& arguments) {
    return std::system(absl::StrCat("cd ", folder, " && openssl ", arguments, " >/dev/null 2>&1").c_str()) ==
           0;
  }
  static bool make_ca(const std::string& name) {
    return openssl(
        absl::StrCat("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ", name,
                     ".key -out ", name, ".pem -subj /CN=", name));
  }
  static bool make_certificate(const std::string& name, const std::string& ca, int days = 2) {
    std::ofstream(absl::StrCat(folder, "/", name, ".ext")) << "subjectAltName=DNS:" << name << "\n";
    return openssl(absl::StrCat("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ", name,
                                ".key -out ", name, ".csr -subj /CN=", name)) &&
           openssl(absl::StrCat("x509 -req -days ", days, " -in ", name, ".csr -CA ", ca, ".pem -CAkey ", ca,
                                ".key -CAcreateserial -out ", name, ".pem -extfile ", name, ".ext"));
  }
  static RpcSecurity as(const std::string& name, const std::string& peer, const std::string& ca = "ca") {
    RpcSecurity security;
    security.tls = TlsFiles{absl::StrCat(folder, "/", ca, ".pem"), absl::StrCat(folder, "/", name, ".pem"),
                            absl::StrCat(folder, "/", name, ".key")};
    security.peer_name = peer;
    return security;
  }
  void start(const RpcSecurity& security) {
    ControlServerOptions options;
    options.security = security;
    auto started = ControlServer::start(options, some_worker("decode-0", 7), server_log.sink());
    ASSERT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
  }
  // Whether a stream opens; the status of the first attempt when not.
  absl::Status connect(const RpcSecurity& security) {
    EventLog<ControlClientEvent> log;
    ControlClient client({.coordinator_id = "a", .term = 1, .security = security}, log.sink());
    const absl::Status began =
        client.connect({"decode-0", Incarnation(7)}, absl::StrCat("127.0.0.1:", server->port()));
    if (!began.ok()) return began;
    EXPECT_TRUE(
        turn_until([&] { client.tick(SteadyClock().now()); },
                   [&] { return log.count<WorkerStreamOpened>() + log.count<WorkerStreamClosed>() > 0; }));
    const auto closed = log.all<WorkerStreamClosed>();
    return closed.empty() ? absl::OkStatus() : closed[0].why;
  }

  static inline std::string folder;
  static inline bool made = false;
  EventLog<ControlServerEvent> server_log;
  std::unique_ptr<ControlServer> server;
};

TEST_F(TlsTest, TheRightNamesMeet) {
  start(as("worker", "coordinator"));
  EXPECT_TRUE(connect(as("coordinator", "worker")).ok());
}

TEST_F(TlsTest, AWorkerIsNoCoordinator) {
  start(as("worker", "coordinator"));
  EXPECT_EQ(connect(as("worker", "worker")).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(server_log.count<CoordinatorOpened>(), 0u);
}

TEST_F(TlsTest, ACoordinatorIsNoWorker) {
  start(as("coordinator", ""));
  EXPECT_EQ(connect(as("coordinator", "worker")).code(), absl::StatusCode::kUnavailable);
}

TEST_F(TlsTest, AnotherAuthorityIsRefusedByBothEnds) {
  start(as("worker", ""));
  EXPECT_FALSE(connect(as("stranger", "worker", "ca")).ok());  // the server does not take its certificate
  EXPECT_FALSE(connect(as("coordinator", "worker", "other")).ok());  // the client does not take the server's
  EXPECT_FALSE(connect(RpcSecurity{}).ok());                         // no TLS at all
  EXPECT_EQ(server_log.count<CoordinatorOpened>(), 0u);
}

TEST_F(TlsTest, MembershipAsksForTheNameToo) {
  EventLog<MembershipCall> calls;
  MembershipServerOptions options;
  options.security = as("coordinator", "worker");
  const auto membership = MembershipServer::start(options, calls.sink());
  ASSERT_TRUE(membership.ok()) << membership.status();
  const auto status_of = [&](const RpcSecurity& security) {
    EventLog<MembershipEvent> events;
    auto client =
        MembershipClient::create(absl::StrCat("127.0.0.1:", (*membership)->port()), security,
                                 some_worker("w", 1), [&](auto e) { (void)events.sink()(std::move(e)); });
    EXPECT_TRUE(client.ok());
    EXPECT_TRUE(turn_until([&] { (*client)->tick(SteadyClock().now()); },
                           [&] { return events.count<JoinFailed>() + calls.count<JoinCall>() > 0; }));
    for (const JoinCall& call : calls.all<JoinCall>())
      call.reply(JoinAccepted{.lease = 1, .ttl = std::chrono::seconds(3)});
    const auto failed = events.all<JoinFailed>();
    return failed.empty() ? absl::OkStatus() : failed[0].why;
  };
  EXPECT_EQ(status_of(as("coordinator", "coordinator")).code(), absl::StatusCode::kPermissionDenied);
  const absl::Status welcome = status_of(as("worker", "coordinator"));
  EXPECT_TRUE(welcome.ok()) << welcome;
}

TEST_F(TlsTest, FilesThatAreNoGoodAreNamed) {
  ControlServerOptions options;
  options.security = as("worker", "");
  options.security.tls->key = folder + "/missing.key";
  const auto missing = ControlServer::start(options, some_worker("w", 1), server_log.sink());
  EXPECT_THAT(std::string(missing.status().message()), ::testing::HasSubstr("missing.key"));
  options.security.tls->key = folder + "/worker.ext";
  const auto no_pem = ControlServer::start(options, some_worker("w", 1), server_log.sink());
  EXPECT_THAT(std::string(no_pem.status().message()), ::testing::HasSubstr("PEM"));
}

// What check_tls_files() says, one line a mistake; `hours`: from now.
std::string mistakes(const TlsFiles& files, const std::string& name, int hours = 0) {
  std::string out;
  for (const TlsMistake& m : check_tls_files(files, name, std::time(nullptr) + 3600 * hours))
    out += absl::StrCat(static_cast<int>(m.file), " ", m.text, "\n");
  return out;
}

TEST_F(TlsTest, FilesAreCheckedBeforeAnybodyConnects) {
  const TlsFiles good = *as("worker", "").tls;
  EXPECT_EQ(mistakes(good, "worker"), "");
  const auto says = [&](const TlsFiles& files, const char* what, const std::string& name = "worker",
                        int hours = 0) {
    EXPECT_THAT(mistakes(files, name, hours), ::testing::HasSubstr(what));
  };
  says({folder + "/none.pem", good.certificate, good.key}, "none.pem: No such file");
  says({good.ca, good.key, good.key}, "worker.key: no certificate in it");
  says({good.ca, good.certificate, good.certificate}, "worker.pem: no private key in it");
  says({good.ca, good.certificate, folder + "/coordinator.key"}, "coordinator.key: is not the key of");
  says({folder + "/other.pem", good.certificate, good.key}, "not signed by");
  says(good, "does not carry the name 'coordinator'", "coordinator");
  says(*as("short", "").tls, "short.pem: expired on", "short", 30);
  says(good, "not valid before", "worker", -30);
  EXPECT_GT(certificate_seconds_left(good, std::time(nullptr)), 3600);
  EXPECT_EQ(certificate_seconds_left({"", "/none", ""}, 0), 0);
}

TEST(HandshakeWords, GrpcsTextsAreExplained) {
  using ::testing::HasSubstr;
  EXPECT_THAT(explain_handshake("SSL routines::certificate verify failed"),
              HasSubstr("not signed by our CA"));
  EXPECT_THAT(explain_handshake("SSL routines::wrong version number"), HasSubstr("without TLS"));
  EXPECT_THAT(explain_handshake("Socket closed"), HasSubstr("does not take our certificate"));
  EXPECT_EQ(explain_handshake("Connection refused"), "");
}

}  // namespace
}  // namespace baton::transport
