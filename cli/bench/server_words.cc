#include "cli/bench/server_words.h"

#include <boost/json.hpp>
#include <set>

#include "base/cat.h"
#include "cli/cluster/http_client.h"

namespace baton::cli {
namespace {

namespace json = boost::json;

constexpr size_t kFewest = 8;
constexpr int kProbe = 32;  // words of the prompt that tells what stands around

absl::StatusOr<json::array> tokens_of(HttpClient& client, const json::object& body) {
  const auto reply = client.post("/tokenize", json::serialize(body));
  if (!reply.ok()) return reply.status();
  boost::system::error_code bad;
  const json::value answer = json::parse(reply->body, bad);
  const json::value* tokens = bad ? nullptr : answer.find_pointer("/tokens", bad);
  if (reply->status != 200 || tokens == nullptr || !tokens->is_array())
    return absl::UnavailableError(cat("/tokenize: ", reply->status, " ", reply->body));
  return tokens->as_array();
}

}  // namespace

absl::StatusOr<load::WordPrompts> server_words(const ServerPlace& server) {
  HttpClient client(server, std::chrono::seconds(10));
  std::string all;
  for (const std::string_view word : load::candidate_words()) all += cat(" ", word);
  ASSIGN_OR_RETURN(const json::array tokens,
                   tokens_of(client, {{"content", all}, {"add_special", false}, {"with_pieces", true}}));
  std::set<std::string, std::less<>> pieces;
  for (const json::value& token : tokens) {
    boost::system::error_code bad;
    const json::value* piece = token.is_object() ? token.find_pointer("/piece", bad) : nullptr;
    if (piece != nullptr && piece->is_string()) pieces.emplace(piece->as_string());
  }
  std::vector<std::string> words;
  for (const std::string_view word : load::candidate_words())
    if (pieces.contains(cat(" ", word))) words.emplace_back(word);
  if (words.size() < kFewest)
    return absl::FailedPreconditionError(
        cat("only ", words.size(), " of the words for prompts are one token in this model"));
  const std::string probe = load::WordPrompts(words, 0).text(1, kProbe);
  ASSIGN_OR_RETURN(const json::array counted, tokens_of(client, {{"model", "default"}, {"prompt", probe}}));
  return load::WordPrompts(std::move(words), static_cast<int>(counted.size()) - kProbe);
}

}  // namespace baton::cli
