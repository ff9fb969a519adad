// Mutual TLS with names: certificates are made by the openssl command in a temporary folder.
#include <gmock/gmock.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tests/support/temp_dir.h"
#include "tests/transport/rpc/event_log.h"
#include "transport/rpc/certificate_watch.h"
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
    directory = std::make_unique<support::TempDir>("tls");
    folder = directory->path();
    made = make_ca("ca") && make_ca("other") && make_certificate("coordinator", "ca") &&
           make_certificate("worker", "ca") && make_certificate("stranger", "other") &&
           make_certificate("short", "ca", 1);
  }
  static void TearDownTestSuite() { directory.reset(); }
  void SetUp() override {
    if (!made) GTEST_SKIP() << "the openssl command is not there or failed";
  }

  static bool openssl(const std::string& arguments) {
    return std::system(absl::StrCat("cd ", folder, " && openssl ", arguments, " >/dev/null 2>&1").c_str()) ==
           0;
  }
  static bool make_ca(const std::string& name, int days = 2) {
    return openssl(absl::StrCat("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days ", days,
                                " -keyout ", name, ".key -out ", name, ".pem -subj /CN=", name));
  }
  // Files `name` become those of `of`.
  static bool lay(const std::string& name, const std::string& of) {
    return std::system(absl::StrCat("cd ", folder, " && cp ", of, ".key ", name, ".key && cp ", of, ".pem ",
                                    name, ".pem")
                           .c_str()) == 0;
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

  static inline std::unique_ptr<support::TempDir> directory;
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
  EXPECT_GT(certificate_end(good.certificate).value_or(0), std::time(nullptr) + 3600);
  EXPECT_EQ(certificate_end("/none"), std::nullopt);
  EXPECT_EQ(certificate_end(good.key), std::nullopt);
}

// A certificate that is renewed while the processes run: nobody restarts, connections made from then on show
// and ask for the new one.
TEST_F(TlsTest, AServerShowsARenewedCertificate) {
  ASSERT_TRUE(make_certificate("renewed", "ca") && lay("live", "worker"));
  RpcSecurity live = as("live", "coordinator");
  live.reload = std::chrono::seconds(1);
  start(live);
  EXPECT_TRUE(connect(as("coordinator", "worker")).ok());
  EXPECT_FALSE(connect(as("coordinator", "renewed")).ok());
  ASSERT_TRUE(lay("live", "renewed"));
  absl::Status status = absl::UnknownError("not tried");
  EXPECT_TRUE(
      turn_until([&] { status = connect(as("coordinator", "renewed")); }, [&] { return status.ok(); }))
      << status;
  EXPECT_FALSE(connect(as("coordinator", "worker")).ok());
}

TEST_F(TlsTest, AWorkersLastingChannelShowsARenewedCertificate) {
  ASSERT_TRUE(make_certificate("renewed", "ca") && lay("live", "worker"));
  EventLog<MembershipCall> calls;
  MembershipServerOptions options;
  options.security = as("coordinator", "renewed");  // "worker" is not let in
  auto membership = MembershipServer::start(options, calls.sink());
  ASSERT_TRUE(membership.ok()) << membership.status();
  options.listen = absl::StrCat("127.0.0.1:", (*membership)->port());
  RpcSecurity live = as("live", "coordinator");
  live.reload = std::chrono::seconds(1);
  EventLog<MembershipEvent> events;
  auto client = MembershipClient::create(options.listen, live, some_worker("w", 1),
                                         [&](auto e) { (void)events.sink()(std::move(e)); });
  ASSERT_TRUE(client.ok()) << client.status();
  const auto turn = [&] { (*client)->tick(SteadyClock().now()); };
  EXPECT_TRUE(turn_until(turn, [&] { return events.count<JoinFailed>() > 0; }));
  ASSERT_TRUE(lay("live", "renewed"));
  EXPECT_EQ(calls.count<JoinCall>(), 0u);
  EXPECT_TRUE(turn_until(
      [&] {
        // The coordinator starts anew now and then, so that the worker connects anew.
        membership->reset();
        membership = MembershipServer::start(options, calls.sink());
        ASSERT_TRUE(membership.ok()) << membership.status();
        const Instant limit = SteadyClock().now() + std::chrono::seconds(2);
        while (calls.count<JoinCall>() == 0 && SteadyClock().now() < limit) {
          turn();
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
      },
      [&] { return calls.count<JoinCall>() > 0; }));
}

// The dates are the file's, the time is the test's.
TEST_F(TlsTest, ACertificateThatEndsSoonIsToldOnceADay) {
  constexpr int64_t kHour = 3600, kDay = 24 * kHour;
  ASSERT_TRUE(make_certificate("year", "ca", 365) && make_certificate("month", "ca", 30) &&
              lay("live", "month"));
  const TlsFiles files = *as("live", "", "long_ca").tls;
  ASSERT_TRUE(make_ca("long_ca", 3650));
  CertificateWatch watch(files);
  EXPECT_TRUE(watch.terms(0).empty());  // not looked at
  const int64_t ends = certificate_end(files.certificate).value_or(0);
  EXPECT_TRUE(watch.look(ends - 15 * kDay).empty());
  const auto told = watch.look(ends - 13 * kDay);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_STREQ(told[0].name, "certificate");
  EXPECT_EQ(told[0].file, files.certificate);
  EXPECT_EQ(told[0].seconds_left, 13 * kDay);
  EXPECT_TRUE(watch.look(ends - 13 * kDay + 23 * kHour).empty());
  EXPECT_EQ(watch.look(ends - 12 * kDay).size(), 1u);
  EXPECT_EQ(watch.look(ends + kDay).size(), 1u);  // ended
  const auto terms = watch.terms(ends + kDay);
  ASSERT_EQ(terms.size(), 2u);
  EXPECT_EQ(terms[0].seconds_left, -kDay);
  EXPECT_STREQ(terms[1].name, "ca");
  EXPECT_GT(terms[1].seconds_left, 3000 * kDay);
  // Renewed: the file says so. A file that is none for a moment changes nothing.
  ASSERT_TRUE(lay("live", "year"));
  EXPECT_TRUE(watch.look(ends + 2 * kDay).empty());
  EXPECT_GT(watch.terms(ends)[0].seconds_left, 300 * kDay);
  std::filesystem::remove(files.certificate);
  EXPECT_TRUE(watch.look(ends + 3 * kDay).empty());
  EXPECT_GT(watch.terms(ends)[0].seconds_left, 300 * kDay);
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
