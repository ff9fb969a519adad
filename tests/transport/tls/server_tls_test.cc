#include "transport/tls/server_tls.h"

#include <gmock/gmock.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <filesystem>

#include "base/rng.h"
#include "tests/support/test_certificates.h"

namespace baton::transport {
namespace {

using State = TlsSession::State;

// The other side, over OpenSSL's own memory buffers.
class Client {
 public:
  explicit Client(const std::string& protocols = "") : context_(::SSL_CTX_new(::TLS_client_method())) {
    SSL_CTX_set_max_proto_version(context_, 0);
    ssl_ = ::SSL_new(context_);
    ::SSL_set_bio(ssl_, ::BIO_new(::BIO_s_mem()), ::BIO_new(::BIO_s_mem()));
    ::SSL_set_connect_state(ssl_);
    if (!protocols.empty())
      ::SSL_set_alpn_protos(ssl_, reinterpret_cast<const unsigned char*>(protocols.data()),
                            static_cast<unsigned>(protocols.size()));
  }
  ~Client() {
    ::SSL_free(ssl_);
    ::SSL_CTX_free(context_);
    ::ERR_clear_error();
  }
  void at_most(int version) { SSL_set_max_proto_version(ssl_, version); }
  SSL* ssl() { return ssl_; }

  // What it wants sent now.
  std::string wire() {
    if (!SSL_is_init_finished(ssl_)) ::SSL_do_handshake(ssl_);
    std::string out(1 << 20, '\0');
    const int n = ::BIO_read(::SSL_get_wbio(ssl_), out.data(), static_cast<int>(out.size()));
    out.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return out;
  }
  void take(const std::string& wire) {
    if (!wire.empty()) ::BIO_write(::SSL_get_rbio(ssl_), wire.data(), static_cast<int>(wire.size()));
    if (!SSL_is_init_finished(ssl_)) ::SSL_do_handshake(ssl_);
  }
  void say(const std::string& text) { ::SSL_write(ssl_, text.data(), static_cast<int>(text.size())); }
  std::string hear() {
    std::string out;
    char piece[4096];
    for (int n; (n = ::SSL_read(ssl_, piece, sizeof piece)) > 0;) out.append(piece, static_cast<size_t>(n));
    return out;
  }
  bool heard_the_end() { return (::SSL_get_shutdown(ssl_) & SSL_RECEIVED_SHUTDOWN) != 0; }

 private:
  SSL_CTX* context_;
  SSL* ssl_;
};

class ServerTlsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!TestCertificates::get().there()) GTEST_SKIP() << "the openssl command made no certificates";
    const StreamSecurity files = TestCertificates::get().as("worker");
    server_ = *ServerTls::create(files.certificate, files.key);
  }
  // Until nobody has anything to say. What the server reads is appended to `text`.
  static State talk(Client& client, TlsSession& session, std::string& text) {
    State state = State::kOpen;
    for (int i = 0; i < 20 && state == State::kOpen; ++i) {
      const std::string sent = client.wire();
      std::string answer;
      state = session.receive(sent, text, answer);
      client.take(answer);
      if (sent.empty() && answer.empty()) break;
    }
    return state;
  }
  std::unique_ptr<ServerTls> server_;
};

TEST_F(ServerTlsTest, WhatIsSaidArrivesBothWays) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    Client client;
    client.at_most(version);
    const auto session = server_->accept();
    std::string text;
    EXPECT_EQ(talk(client, *session, text), State::kOpen);
    ASSERT_TRUE(session->established());
    EXPECT_EQ(::SSL_version(client.ssl()), version);
    const std::string large(300'000, 'x');
    client.say("GET / HTTP/1.1");
    EXPECT_EQ(talk(client, *session, text), State::kOpen);
    EXPECT_EQ(text, "GET / HTTP/1.1");
    std::string wire;
    for (const std::string& piece : {std::string("HTTP/1.1 200 OK"), std::string(), large})
      session->send(piece, wire);
    client.take(wire);
    EXPECT_EQ(client.hear(), "HTTP/1.1 200 OK" + large);
  }
}

// However the network cuts the bytes.
TEST_F(ServerTlsTest, BytesMayComeOneByOne) {
  Rng rng(7);
  Client client;
  const auto session = server_->accept();
  std::string text;
  const auto feed = [&] {
    const std::string sent = client.wire();
    std::string answer;
    for (size_t at = 0; at < sent.size();) {
      const size_t n = std::min<size_t>(1 + rng.below(3), sent.size() - at);
      ASSERT_EQ(session->receive(std::string_view(sent).substr(at, n), text, answer), State::kOpen);
      at += n;
    }
    client.take(answer);
  };
  for (int i = 0; i < 4; ++i) feed();
  ASSERT_TRUE(session->established());
  client.say(std::string(5000, 'a'));
  client.say("b");
  feed();
  EXPECT_EQ(text, std::string(5000, 'a') + "b");
}

// A client may close its side and still get its answer; ours is closed once.
TEST_F(ServerTlsTest, EachSideIsClosedByItself) {
  Client client;
  const auto session = server_->accept();
  std::string text, wire;
  talk(client, *session, text);
  client.say("last words");
  ::SSL_shutdown(client.ssl());
  EXPECT_EQ(talk(client, *session, text), State::kEnded);
  EXPECT_EQ(text, "last words");
  session->send("answer", wire);
  EXPECT_TRUE(session->close(wire));
  EXPECT_FALSE(session->close(wire));
  client.take(wire);
  EXPECT_EQ(client.hear(), "answer");
  EXPECT_TRUE(client.heard_the_end());
}

TEST_F(ServerTlsTest, WhoDoesNotSpeakTlsIsTold) {
  std::string text, wire;
  EXPECT_EQ(server_->accept()->receive("GET / HTTP/1.1\r\nHost: a\r\n\r\n", text, wire), State::kPlain);
  EXPECT_EQ(server_->accept()->receive("POST /v1/chat/completions HTTP/1.1\r\n", text, wire), State::kPlain);
  const auto session = server_->accept();
  EXPECT_EQ(session->receive(std::string(100, '\xff'), text, wire), State::kBroken);
  EXPECT_FALSE(session->failure().empty());
  EXPECT_EQ(session->receive("more", text, wire), State::kBroken);
  EXPECT_FALSE(session->close(wire));
  EXPECT_EQ(text, "");
}

TEST_F(ServerTlsTest, BytesThatSomebodyChangedAreNoText) {
  Client client;
  const auto session = server_->accept();
  std::string text, wire;
  talk(client, *session, text);
  client.say("secret");
  std::string sent = client.wire();
  sent[sent.size() / 2] ^= 1;
  EXPECT_EQ(session->receive(sent, text, wire), State::kBroken);
  EXPECT_EQ(text, "");
}

TEST_F(ServerTlsTest, OldVersionsAndOtherProtocolsAreRefused) {
  std::string text;
  Client old;
  ::SSL_set_security_level(old.ssl(), 0);
  old.at_most(TLS1_1_VERSION);
  EXPECT_EQ(talk(old, *server_->accept(), text), State::kBroken);
  Client http2("\x02h2");
  EXPECT_EQ(talk(http2, *server_->accept(), text), State::kBroken);
  Client both("\x02h2\x08http/1.1");
  const auto session = server_->accept();
  EXPECT_EQ(talk(both, *session, text), State::kOpen);
  EXPECT_TRUE(session->established());
}

// A certificate is renewed under a server that runs: who comes then is shown the new one.
TEST_F(ServerTlsTest, ChangedFilesHoldForNewConnections) {
  support::TempDir folder("server-tls");
  const std::string certificate = folder.file("tls.crt"), key = folder.file("tls.key");
  const auto put = [&](const std::string& who) {
    const StreamSecurity files = TestCertificates::get().as(who);
    for (const auto& [from, to] : {std::pair{files.certificate, certificate}, {files.key, key}}) {
      std::filesystem::copy_file(from, to + ".new", std::filesystem::copy_options::overwrite_existing);
      std::filesystem::rename(to + ".new", to);
    }
  };
  const auto name = [&](ServerTls& server) {
    Client client;
    const auto session = server.accept();
    std::string text;
    talk(client, *session, text);
    X509* shown = ::SSL_get1_peer_certificate(client.ssl());
    char out[64] = "";
    if (shown != nullptr)
      ::X509_NAME_get_text_by_NID(::X509_get_subject_name(shown), NID_commonName, out, 64);
    ::X509_free(shown);
    return std::string(out);
  };
  put("worker");
  const auto server = *ServerTls::create(certificate, key);
  EXPECT_EQ(name(*server), "worker");
  put("coordinator");
  EXPECT_EQ(name(*server), "coordinator");
  std::ofstream(certificate) << "no certificate";
  EXPECT_EQ(name(*server), "coordinator") << "what was good goes on";
  put("worker");
  EXPECT_EQ(name(*server), "worker");
}

TEST_F(ServerTlsTest, FilesThatAreNoGoodAreNamed) {
  const StreamSecurity files = TestCertificates::get().as("worker");
  const std::string other_key = TestCertificates::get().as("coordinator").key;
  for (const auto& [certificate, key, named] :
       {std::tuple{std::string("/no/such.pem"), files.key, std::string("/no/such.pem")},
        {files.certificate, other_key, other_key},
        {files.key, files.key, files.key}}) {
    const auto server = ServerTls::create(certificate, key);
    ASSERT_FALSE(server.ok());
    EXPECT_THAT(std::string(server.status().message()), testing::StartsWith(named));
  }
}

}  // namespace
}  // namespace baton::transport
