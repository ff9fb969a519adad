// The server and the client of HTTP, under TLS, over a real socket.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "base/cat.h"
#include "cli/cluster/http_client.h"
#include "coordinator/gateway/http_server.h"
#include "tests/support/test_certificates.h"

namespace baton::cli {
namespace {

using namespace std::chrono_literals;
using namespace coordinator;
using testing::HasSubstr;

class HttpsTest : public testing::Test {
 protected:
  void start(bool tls = true) {
    if (!TestCertificates::get().there()) GTEST_SKIP() << "the openssl command made no certificates";
    RouteTable routes;
    const auto add = [&](const char* method, const char* path, RouteHandler handler) {
      ASSERT_TRUE(routes.add({method, path, RouteRole::kPublic, std::move(handler)}).ok());
    };
    add("GET", "/a", [](auto e) { e->answer({.body = "here"}); });
    add("POST", "/echo", [](auto e) { e->answer({.body = e->request().body}); });
    add("POST", "/stream", [](auto e) {
      e->start_stream({.content_type = "text/event-stream"});
      for (int i = 0; i < 500; ++i) e->write(cat("data: ", i, "\n\n"));
      e->write(cat("data: ", std::string(1 << 20, 'x'), "\n\n"));
      e->end();
    });
    add("POST", "/broken", [](auto e) {
      e->start_stream({.content_type = "text/event-stream"});
      e->write("data: 1\n\n");
      e->abort();
    });
    HttpServerOptions options{.head_timeout = 200ms, .tick = 10ms};
    if (tls) options.tls = *transport::ServerTls::create(files_.certificate, files_.key);
    server_ =
        *HttpServer::listen(options, std::move(routes),
                            {.clock = &clock_, .random = [] { return 1; }, .unix_time = [] { return 0; }});
    thread_ = std::thread([this] { server_->run(); });
  }
  ~HttpsTest() override {
    if (!server_) return;
    server_->stop();
    thread_.join();
  }
  ServerPlace place() const {
    return {.address = cat("127.0.0.1:", server_->port()), .tls = true, .certificate = files_.certificate};
  }

  const transport::StreamSecurity files_ = TestCertificates::get().as("worker");
  SteadyClock clock_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(HttpsTest, RequestsAnswersAndStreamsAreWhole) {
  start();
  HttpClient client(place(), 10s);
  for (int i = 0; i < 3; ++i) {
    const auto here = client.get("/a");
    ASSERT_TRUE(here.ok()) << here.status();
    EXPECT_EQ(here->body, "here");
  }
  std::string large;
  for (int i = 0; large.size() < (3u << 20); ++i) large += cat(i, " ");
  EXPECT_EQ(client.post("/echo", large)->body, large);
  std::vector<std::string> events;
  const auto reply = client.post_stream("/stream", "{}", [&](std::string_view data) {
    events.emplace_back(data);
    return true;
  });
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(events.size(), 501u);
  EXPECT_EQ(events[499], "499");
  EXPECT_EQ(events[500].size(), 1u << 20);
  EXPECT_EQ(client.get("/a")->body, "here") << "the connection goes on";
}

TEST_F(HttpsTest, AStreamThatBreaksIsNotTakenForWhole) {
  start();
  HttpClient client(place(), 10s);
  EXPECT_FALSE(client.post_stream("/broken", "{}", [](std::string_view) { return true; }).ok());
}

TEST_F(HttpsTest, AServerThatIsNotTheOneMeantIsNotSpokenTo) {
  start();
  ServerPlace other = place();
  other.certificate = TestCertificates::get().as("coordinator").certificate;
  auto reply = HttpClient(other, 10s).get("/a");
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("its certificate is not trusted"));
  other.certificate.clear();  // then an authority of the machine's must have made it
  reply = HttpClient(other, 10s).get("/a");
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("SSL_CERT_FILE"));
}

// By an authority, a certificate is good for the names that it carries only.
TEST_F(HttpsTest, TheNameOfACertificateCounts) {
  start();
  ::setenv("SSL_CERT_FILE", files_.ca.c_str(), 1);
  ServerPlace named = place();
  named.certificate.clear();
  const auto reply = HttpClient(named, 10s).get("/a");
  ::unsetenv("SSL_CERT_FILE");
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("mismatch"));
}

TEST_F(HttpsTest, WhoSpeaksPlainlyIsToldToUseTls) {
  start();
  const auto reply = HttpClient(place().address, 10s).get("/a");
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->status, 400);
  EXPECT_EQ(reply->body, "this port speaks TLS only: ask https:// here");
}

TEST_F(HttpsTest, TlsToAPlainPortIsToldApartFromAWrongCertificate) {
  start(/*tls=*/false);
  const auto reply = HttpClient(place(), 10s).get("/a");
  ASSERT_FALSE(reply.ok());
  EXPECT_THAT(std::string(reply.status().message()), HasSubstr("is it http://"));
}

// Who connects and says nothing, or garbage, holds nothing.
TEST_F(HttpsTest, AHandshakeThatDoesNotComeIsNotWaitedFor) {
  start();
  const auto open = [this] {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in at{
        .sin_family = AF_INET, .sin_port = htons(server_->port()), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    return fd;
  };
  const int silent = open(), garbage = open();
  const std::string bytes(1000, '\x99');
  EXPECT_EQ(::send(garbage, bytes.data(), bytes.size(), MSG_NOSIGNAL), 1000);
  for (const int fd : {garbage, silent}) {
    char piece[64];
    while (::recv(fd, piece, sizeof piece, 0) > 0) {
    }
    ::close(fd);
  }
  EXPECT_EQ(HttpClient(place(), 10s).get("/a")->body, "here");
}

}  // namespace
}  // namespace baton::cli
