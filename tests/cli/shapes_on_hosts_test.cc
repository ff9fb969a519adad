// Design I1 over ranks on several hosts (network namespaces): every shape of a worker, and prefill and decode
// workers of every shape, give the tokens and logprobs of one process, bit for bit, over TCP, plain and under
// TLS. The table is here; that of one machine is in tests/e2e/shapes_test.py.
#include <thread>

#include "tests/cli/hosts_fixture.h"
#include "tests/support/test_certificates.h"

namespace baton::cli {
namespace {

using ::testing::EndsWith;

struct Shape {
  int tensor = 1, pipeline = 1;
  int ranks() const { return tensor * pipeline; }
  std::string text() const { return cat(tensor, "x", pipeline); }
  friend bool operator==(const Shape&, const Shape&) = default;
};

struct Model {
  const char* name;
  const char* variable;  // that names its file; nullptr: it is in BATON_SHARED
  const char* kv_memory;
  int tokens;
  std::vector<const char*> prompts;
};
const Model kStories{"stories260K",  // 4 KV heads, 5 layers
                     nullptr,
                     "8Mi",
                     20,
                     {"Once upon a time", "Lily likes cats and dogs, and Tom had a red ball and a blue car"}};
const Model kSmolLm2{
    "SmolLM2",  // 3 KV heads, 30 layers
    "BATON_SMOLLM2",
    "32Mi",
    6,
    {"Once upon a time there was a lighthouse keeper who", "Count: one two three four five"}};
const Model kTinyLlama{"TinyLlama", "BATON_TINYLLAMA", "64Mi", 5, kSmolLm2.prompts};  // 4 KV heads, 22 layers

enum class Wire { kPlain, kTls };  // of the control connection, of KV and between ranks
enum class Work { kAlone, kSplit };

// One cluster. Each worker has two hosts, the first half of its ranks on the first of them: a stage has a
// host of its own, the ranks of the only stage are on both.
struct Row {
  const Model* model;
  Work work;
  Shape prefill;  // of the only worker, when it works alone
  Shape decode;
  Wire wire;
};

std::vector<Row> grid() {
  const std::vector<Shape> shapes{{1, 1}, {1, 2}, {2, 1}, {2, 2}, {4, 1}, {4, 2}};
  std::vector<Row> rows;
  const auto next = [&rows] { return rows.size() % 2 == 0 ? Wire::kTls : Wire::kPlain; };
  for (const Shape& s : shapes)
    for (const Wire wire : {Wire::kTls, Wire::kPlain})
      if (s.ranks() > 1) rows.push_back({&kStories, Work::kAlone, s, {}, wire});
  for (const Shape& s : shapes) rows.push_back({&kStories, Work::kSplit, s, s, next()});
  const std::vector<std::pair<Shape, Shape>> different{{{1, 1}, {4, 1}}, {{4, 1}, {1, 1}}, {{2, 1}, {1, 2}},
                                                       {{1, 2}, {2, 1}}, {{2, 2}, {4, 1}}, {{4, 2}, {2, 2}},
                                                       {{1, 2}, {4, 2}}};
  for (const auto& [from, to] : different) rows.push_back({&kStories, Work::kSplit, from, to, next()});
  for (const Row& row : {Row{&kSmolLm2, Work::kAlone, {3, 1}, {}, Wire::kTls},
                         Row{&kSmolLm2, Work::kSplit, {3, 1}, {3, 1}, Wire::kPlain},
                         Row{&kSmolLm2, Work::kSplit, {3, 1}, {1, 2}, Wire::kTls},
                         Row{&kSmolLm2, Work::kSplit, {1, 2}, {3, 1}, Wire::kPlain},
                         Row{&kTinyLlama, Work::kAlone, {4, 1}, {}, Wire::kPlain},
                         Row{&kTinyLlama, Work::kSplit, {2, 1}, {2, 1}, Wire::kPlain},
                         Row{&kTinyLlama, Work::kSplit, {2, 1}, {1, 2}, Wire::kTls}})
    rows.push_back(row);
  return rows;
}

std::string name_of(const Row& row) {
  return cat(row.model->name, "_", row.prefill.text(),
             row.work == Work::kSplit ? cat("_to_", row.decode.text()) : "",
             row.wire == Wire::kTls ? "_tls" : "_plain");
}

class ShapesOnHosts : public ClusterOnHosts, public ::testing::WithParamInterface<Row> {
 protected:
  static constexpr int kFirst = 1, kDecode = 3;  // hosts of the first worker, of the second; 0: coordinator
  static constexpr const char* kJoin = "  control:\n    listen: \"10.77.0.2:8001\"\n";
  static constexpr const char* kPermission = "insecureAllowPlaintextOffLoopback: true";

  int host_count() const override { return 5; }
  std::string model() const override {
    if (GetParam().model->variable == nullptr) return ClusterOnHosts::model();
    const char* path = std::getenv(GetParam().model->variable);
    return path != nullptr ? path : cat("the file that ", GetParam().model->variable, " should name");
  }
  bool tls() const { return GetParam().wire == Wire::kTls; }
  const char* lane() const { return tls() ? "socket-tls" : "socket"; }

  static int host_of(int first, const Shape& shape, int rank) { return first + rank * 2 / shape.ranks(); }
  std::string pool(const char* name, const Shape& shape, int first) const {
    std::string hosts;
    for (int rank = 0; rank < shape.ranks(); ++rank)
      hosts += cat(rank == 0 ? "" : ", ", kHosts[host_of(first, shape, rank)]);
    return cat(name, ": {kv: {memory: ", GetParam().model->kv_memory, "}, hosts: [", hosts,
               "], parallel: {tensor: ", shape.tensor, ", pipeline: ", shape.pipeline, tls() ? "" : ", ",
               tls() ? "" : kPermission, "}}");
  }
  void start_ranks(const std::string& manifest, const char* name, const Shape& shape, int first) {
    for (int rank = 0; rank < shape.ranks(); ++rank)
      start(host_of(first, shape, rank),
            {"worker", "--manifest", manifest, "--pool", name, "--rank", cat(rank)});
  }
  // Starts the row's cluster; true when it serves.
  bool serve() {
    const Row& row = GetParam();
    const bool split = row.work == Work::kSplit;
    const char* first = split ? "prefill" : "any";
    const std::string pools = cat(pool(first, row.prefill, kFirst), split ? ", " : "",
                                  split ? pool("decode", row.decode, kDecode) : "");
    const std::string manifest =
        tls() ? write_manifest(cat(kJoin, TestCertificates::get().control_tls()), pools)
              : write_manifest(cat(kJoin, "    ", kPermission, "\n"), pools,
                               cat("  transfer: {", kPermission, "}\n"));
    start_coordinator(manifest);
    start_ranks(manifest, first, row.prefill, kFirst);
    if (split) start_ranks(manifest, "decode", row.decode, kDecode);
    const auto serves = [&] {
      return ready(split ? 2 : 1) && (!split || !worker("decode-0").at("links").as_array().empty());
    };
    return eventually(serves, std::chrono::seconds(120));
  }

  // What is asked for: greedy and drawn, with logprobs and without; the first of each prompt computes its KV,
  // later ones find it.
  std::vector<std::string> requests() const {
    std::vector<std::string> out;
    for (const char* prompt : GetParam().model->prompts)
      for (const char* way :
           {R"("temperature":0)", R"("temperature":0,"logprobs":5)",
            R"("temperature":0.9,"seed":5,"logprobs":2)", R"("temperature":0.8,"seed":11,"top_k":20)",
            R"("temperature":1.0,"seed":3,"top_p":0.9,"logprobs":0,"echo":true)"})
        out.push_back(cat(R"({"model":"default","prompt":")", prompt, R"(","max_tokens":)",
                          GetParam().model->tokens, R"(,"ignore_eos":true,"return_token_ids":true,)", way,
                          "}"));
    return out;
  }
  // Token ids and logprobs as text: shortest round-trip decimals, so that equal means equal bits.
  std::string answer(const std::string& request, const std::string& path) {
    const auto reply = ask("/v1/completions", request);
    if (!reply.ok()) return reply.status().ToString();
    if (reply->status != 200 || reply->headers.at("x-baton-path") != path)
      return cat(reply->status, " ", reply->status == 200 ? reply->headers.at("x-baton-path") : reply->body);
    const boost::json::value body = boost::json::parse(reply->body);
    const boost::json::object& choice = body.at("choices").at(0).as_object();
    return cat(boost::json::serialize(choice.at("token_ids")), " ",
               boost::json::serialize(choice.at("logprobs")));
  }
  // One by one, then all together.
  std::vector<std::string> answers(const std::string& path) {
    const std::vector<std::string> all = requests();
    std::vector<std::string> out, together(all.size());
    for (const std::string& request : all) out.push_back(answer(request, path));
    {
      std::vector<std::jthread> threads;
      for (size_t i = 0; i < all.size(); ++i)
        threads.emplace_back([&, i] { together[i] = answer(all[i], path); });
    }
    EXPECT_EQ(together, out);
    return out;
  }
  // Of one process on one machine, asked for once for each model.
  const std::vector<std::string>& want() {
    static std::map<const Model*, std::vector<std::string>> known;
    auto [it, is_new] = known.try_emplace(GetParam().model);
    if (!is_new) return it->second;
    const std::string one = write_manifest("  control: {listen: \"127.0.0.1:8001\"}\n",
                                           cat("any: {kv: {memory: ", GetParam().model->kv_memory, "}}"));
    start_coordinator(one);
    start_worker(0, one, "any");
    EXPECT_TRUE(eventually([&] { return ready(1); }, std::chrono::seconds(120)));
    it->second = answers("local");
    for (const std::string& text : it->second) EXPECT_EQ(text[0], '[') << text;
    stop();
    return it->second;
  }
  // "4 ranks over socket-tls, stages over shm"
  std::string ranks_text(const Shape& shape) const {
    return cat(shape.ranks(), " ranks over ", lane(),
               shape.pipeline > 1 && shape.tensor > 1 ? ", stages over shm" : "");
  }
  void expect_ranks(const char* name, const Shape& shape) {
    if (shape.ranks() == 1) return;
    EXPECT_THAT(std::string(worker(name).at("device").as_string()), EndsWith(ranks_text(shape)));
  }
};

TEST_P(ShapesOnHosts, HaveTheTokensAndLogprobsOfOneProcess) {
  const Row& row = GetParam();
  if (tls() && !TestCertificates::get().there()) GTEST_SKIP() << "the openssl command is not there or failed";
  const std::vector<std::string>& wanted = want();
  ASSERT_TRUE(serve());
  const bool split = row.work == Work::kSplit;
  EXPECT_EQ(answers(split ? "remote-prefill" : "local"), wanted);
  expect_ranks(split ? "prefill-0" : "any-0", row.prefill);
  if (!split) return;
  expect_ranks("decode-0", row.decode);
  EXPECT_EQ(worker("decode-0").at("links").at(0).at("lane").as_string(), lane())
      << "another host's memory was used";
}

INSTANTIATE_TEST_SUITE_P(Table, ShapesOnHosts, ::testing::ValuesIn(grid()),
                         [](const auto& i) { return name_of(i.param); });

}  // namespace
}  // namespace baton::cli
