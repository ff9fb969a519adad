// Connections between workers under TLS: who is let in, what the wire shows, keys that are changed.
#include "transport/tls/tls_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/support/test_certificates.h"
#include "tests/transport/data/plane_fixture.h"
#include "transport/data/socket_links.h"

namespace baton::transport {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

std::unique_ptr<TlsContext> context_of(const StreamSecurity& security) {
  auto made = TlsContext::create(security);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

iovec part(std::string& text, size_t from, size_t bytes) { return {text.data() + from, bytes}; }

// Two ends, and between them somebody who sees every byte.
class Wire {
 public:
  Wire(const StreamSecurity& connects, const StreamSecurity& accepts)
      : contexts_{context_of(connects), context_of(accepts)} {
    join(*contexts_[0], *contexts_[1]);
  }
  Wire(const TlsContext& connects, const TlsContext& accepts) { join(connects, accepts); }
  void join(const TlsContext& connects, const TlsContext& accepts) {
    for (auto& pair : sockets_)
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair.data()), 0);
    a = std::make_unique<TlsStream>(connects, sockets_[0][0], TlsStream::Side::kConnects);
    b = std::make_unique<TlsStream>(accepts, sockets_[1][0], TlsStream::Side::kAccepts);
  }
  ~Wire() {
    for (const auto& pair : sockets_)
      for (const int fd : pair) ::close(fd);
  }
  void carry() {
    for (const int way : {0, 1}) {
      std::string& waits = waits_[way];
      std::array<char, 65536> bytes;
      const ssize_t n = ::recv(sockets_[way][1], bytes.data(), bytes.size(), 0);
      if (n > 0) waits.append(bytes.data(), static_cast<size_t>(n));
      if (n > 0) seen.append(bytes.data(), static_cast<size_t>(n));
      const ssize_t m = ::send(sockets_[1 - way][1], waits.data(), waits.size(), MSG_NOSIGNAL);
      if (m > 0) waits.erase(0, static_cast<size_t>(m));
    }
  }
  // Words that nobody asked for, to the side that accepts.
  void say(const std::string& bytes) {
    ASSERT_EQ(::send(sockets_[1][1], bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  // Both know each other, or one has given up and told the other.
  bool meet() {
    return drive(
        [&] {
          for (TlsStream* s : {a.get(), b.get()}) {
            std::array<char, 16> none;
            const std::array<iovec, 1> room{iovec{none.data(), none.size()}};
            (void)s->read(room);
            (void)s->drain();
          }
          carry();
        },
        [&] { return (a->established() && b->established()) || (a->failed() && b->failed()); });
  }
  std::unique_ptr<TlsStream> a, b;
  std::string seen;

 private:
  std::array<std::unique_ptr<TlsContext>, 2> contexts_;
  std::array<std::array<int, 2>, 2> sockets_{};
  std::array<std::string, 2> waits_;
};

class TlsStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!certificates_.there()) GTEST_SKIP() << "the openssl command is not there or failed";
  }
  const TestCertificates& certificates_ = TestCertificates::get();
};

// Sends `text` in parts of any size, reads into places of any size.
void send_all(Wire& wire, TlsStream& from, TlsStream& to, std::string& text, Rng& rng) {
  std::string got(text.size(), '\0');
  size_t sent = 0, read = 0;
  const bool done = drive(
      [&] {
        std::vector<iovec> parts, room;
        for (size_t at = sent; at < text.size() && parts.size() < 9;) {
          const size_t n = std::min<size_t>(text.size() - at, 1 + rng.below(rng.below(2) ? 60'000 : 90));
          parts.push_back(part(text, at, n));
          at += n;
        }
        if (!parts.empty()) sent += from.write(parts);
        (void)from.drain();
        wire.carry();
        for (size_t at = read; at < text.size() && room.size() < 5;) {
          const size_t n = std::min<size_t>(text.size() - at, 1 + rng.below(100'000));
          room.push_back(part(got, at, n));
          at += n;
        }
        if (!room.empty()) read += to.read(room);
      },
      [&] { return read == text.size() || from.failed() || to.failed(); });
  ASSERT_TRUE(done && !from.failed() && !to.failed());
  EXPECT_TRUE(got == text);
}

TEST_F(TlsStreamTest, WhatIsSentArrivesAndTheWireDoesNotShowIt) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  StreamSecurity security = certificates_.as("worker");
  security.rekey_records = 60;  // about five new keys
  Wire wire(security, certificates_.as("worker"));
  ASSERT_TRUE(wire.meet());
  ASSERT_TRUE(wire.a->established() && wire.b->established());
  const std::string secret = "the content of somebody's conversation";
  std::string text;
  while (text.size() < 5 << 20) text += secret + std::string(rng.below(300), static_cast<char>(rng.next()));
  send_all(wire, *wire.a, *wire.b, text, rng);
  std::string answer = text.substr(0, 700'000);
  send_all(wire, *wire.b, *wire.a, answer, rng);
  EXPECT_EQ(wire.seen.find(secret), std::string::npos);
  EXPECT_GT(wire.seen.size(), text.size() + answer.size());
}

// A certificate that is renewed while both ends run, and a file that is none for a moment.
TEST_F(TlsStreamTest, ChangedFilesAreUsedByStreamsMadeThen) {
  const std::string folder = testing::TempDir();
  StreamSecurity live = certificates_.as("worker");
  const auto lay = [&](const std::string& who) {
    const StreamSecurity from = certificates_.as(who);
    const auto replace = std::filesystem::copy_options::overwrite_existing;
    live.certificate = folder + "/live.pem";
    live.key = folder + "/live.key";
    std::filesystem::copy_file(from.certificate, live.certificate, replace);
    std::filesystem::copy_file(from.key, live.key, replace);
  };
  lay("expired");
  const auto context = context_of(live);
  const auto other = context_of(certificates_.as("worker"));
  ASSERT_TRUE(context && other);
  const auto meets = [&] {
    Wire wire(*context, *other);
    EXPECT_TRUE(wire.meet());
    return wire.a->established() && wire.b->established();
  };
  EXPECT_FALSE(meets());
  lay("worker");
  EXPECT_FALSE(meets());  // nobody looked
  context->refresh();
  EXPECT_TRUE(meets());
  std::ofstream(live.key) << "half a fi";
  context->refresh();
  EXPECT_TRUE(meets());
  lay("expired");
  context->refresh();
  EXPECT_FALSE(meets());
}

TEST_F(TlsStreamTest, OnlyAWorkerOfTheClusterIsLetIn) {
  struct Case {
    const char* name;
    StreamSecurity connects, accepts;
    const char* first;   // what the one says that connects
    const char* second;  // and the one that accepts
  };
  const StreamSecurity good = certificates_.as("worker");
  const char* refused = "TLS: refused by the peer: ";
  const char* authority = "TLS: the peer's certificate: ";
  const char* expired = "TLS: the peer's certificate: certificate has expired";
  const char* another = "TLS: the peer's certificate: hostname mismatch";
  const Case cases[] = {
      {"another authority's connects", certificates_.as("stranger"), good, refused, authority},
      {"another authority's accepts", good, certificates_.as("stranger"), authority, refused},
      {"expired connects", certificates_.as("expired"), good, refused, expired},
      {"expired accepts", good, certificates_.as("expired"), expired, refused},
      {"the coordinator connects", certificates_.as("coordinator"), good, refused, another},
      {"the coordinator accepts", good, certificates_.as("coordinator"), another, refused},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Wire wire(c.connects, c.accepts);
    ASSERT_TRUE(wire.meet());
    ASSERT_TRUE(wire.a->failed() && wire.b->failed());
    EXPECT_THAT(wire.a->failure(), StartsWith(c.first));
    EXPECT_THAT(wire.b->failure(), StartsWith(c.second));
    EXPECT_FALSE(wire.b->established());
  }
}

TEST_F(TlsStreamTest, PlainWordsAreRefused) {
  for (const std::string& words : {std::string("BTS1"), std::string("GET / HTTP/1.1\r\n\r\n")}) {
    Wire wire(certificates_.as("worker"), certificates_.as("worker"));
    wire.say(words + std::string(100, 'x'));
    std::array<char, 16> none;
    const std::array<iovec, 1> room{iovec{none.data(), none.size()}};
    EXPECT_EQ(wire.b->read(room), 0u);
    ASSERT_TRUE(wire.b->failed());
    EXPECT_EQ(wire.b->failure(), "TLS: the peer does not speak it");
  }
}

TEST_F(TlsStreamTest, FilesThatAreNoGoodAreNamed) {
  StreamSecurity missing = certificates_.as("worker");
  missing.ca = "/nowhere/ca.pem";
  EXPECT_THAT(std::string(TlsContext::create(missing).status().message()), HasSubstr("/nowhere/ca.pem"));
  StreamSecurity mixed = certificates_.as("worker");
  mixed.key = certificates_.as("coordinator").key;
  EXPECT_THAT(std::string(TlsContext::create(mixed).status().message()), HasSubstr("coordinator.key"));
  StreamSecurity nameless = certificates_.as("worker");
  nameless.peer_name.clear();
  EXPECT_FALSE(TlsContext::create(nameless).ok());
}

// One side has TLS, the other has not: no pair, whoever connects and whatever the address pretends.
TEST_F(TlsStreamTest, NothingFallsBackToPlainText) {
  LoopbackHub hub;
  const AllowedLanes lanes = lanes_of(Fabric::kSocket);
  for (const bool secret_connects : {true, false}) {
    RecordingPlane a(secret_connects ? Fabric::kTls : Fabric::kSocket, hub, plane_options("a", 1, lanes));
    RecordingPlane b(secret_connects ? Fabric::kSocket : Fabric::kTls, hub, plane_options("b", 1, lanes));
    Instant now{std::chrono::seconds(1000)};
    EXPECT_THAT(std::string(a.plane->connect(describe(*b.plane, b.ref), now).message()),
                HasSubstr("TLS to both or to none"));
    WorkerDescription pretends = describe(*b.plane, b.ref);
    const std::string at = pretends.data_address.substr(pretends.data_address.find(':'));
    pretends.data_address = (secret_connects ? "tls" : "socket") + at;
    ASSERT_TRUE(a.plane->connect(pretends, now).ok());
    ASSERT_TRUE(drive(
        [&] {
          now += std::chrono::milliseconds(10);
          a.plane->do_work(now);
          b.plane->do_work(now);
        },
        [&] { return !a.peers.empty(); }));
    EXPECT_EQ(a.peers[0].kind, PeerEvent::Kind::kRefused) << a.peers[0].detail;
    EXPECT_FALSE(a.plane->connected(b.ref) || b.plane->connected(a.ref));
    EXPECT_TRUE(b.peers.empty());
  }
}

}  // namespace
}  // namespace baton::transport
