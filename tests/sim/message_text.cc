#include "tests/sim/message_text.h"

#include "absl/strings/str_cat.h"

namespace baton::sim {
namespace {

int number(Leg leg) { return static_cast<int>(leg); }

std::string one(const CoordinatorHello&) { return "hello"; }
std::string one(const Ping& m) { return absl::StrCat("ping ", m.number); }
std::string one(const Release& m) { return absl::StrCat("release ", to_string(m.request)); }
std::string one(const ConnectPeer& m) { return absl::StrCat("connect ", m.peer.ref.name); }
std::string one(const FencePeer& m) {
  return absl::StrCat("fence ", m.peer.name, " ", to_string(m.peer.incarnation));
}
std::string one(const Submit& m) {
  return absl::StrCat("submit ", to_string(m.request.id), " leg ", number(m.leg), " ", to_string(m.transfer),
                      " ", m.peer ? m.peer->name : "-", " ", m.request.time_left.count());
}

std::string one(const WorkerHello&) { return "hello"; }
std::string one(const SubmitReply& m) {
  return absl::StrCat("reply ", to_string(m.request), " leg ", number(m.leg), m.accepted ? " yes " : " no ",
                      static_cast<int>(m.reason), " ", m.cached_tokens);
}
std::string one(const StepReport& m) {
  std::string out =
      absl::StrCat(to_string(m.step), " free ", m.load.blocks_free, " cached ", m.load.blocks_cached, " +",
                   m.blocks_stored.size(), " -", m.blocks_evicted.size());
  for (const SequenceTokens& s : m.sequences) {
    absl::StrAppend(&out, "; ", to_string(s.request), " leg ", number(s.leg), " finish ",
                    static_cast<int>(s.finish), s.error);
    for (const TokenOutput& t : s.tokens) absl::StrAppend(&out, " ", t.token);
  }
  return out;
}
std::string one(const TransferReport& m) {
  return absl::StrCat("transfer ", to_string(m.transfer), m.ok ? " ok " : " failed ", m.error, " ",
                      m.duration.count());
}
std::string one(const Released& m) {
  return absl::StrCat("released ", to_string(m.request), " leg ", number(m.leg));
}
std::string one(const PeerReport& m) { return absl::StrCat("peer ", m.peer.name, " ", m.connected ? 1 : 0); }
std::string one(const Pong& m) { return absl::StrCat("pong ", m.load.running, " ", m.load.blocks_free); }

}  // namespace

std::string text(const CoordinatorMessage& message) {
  return std::visit([](const auto& m) { return one(m); }, message);
}
std::string text(const WorkerMessage& message) {
  return std::visit([](const auto& m) { return one(m); }, message);
}

}  // namespace baton::sim
