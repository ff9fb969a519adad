// chat: a conversation in the terminal, over the same HTTP interface that everybody uses.
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <iostream>
#include <string>

#include "base/cat.h"
#include "cli/cluster/home.h"
#include "cli/cluster/http_client.h"
#include "cli/commands.h"

namespace baton::cli {
namespace {

namespace json = boost::json;

std::string text_at(const json::value& v, json::string_view pointer) {
  boost::system::error_code bad;
  const json::value* text = v.find_pointer(pointer, bad);
  return text && text->is_string() ? std::string(text->as_string()) : "";
}

json::value parsed(std::string_view text) {
  boost::system::error_code bad;
  json::value v = json::parse(json::string_view(text.data(), text.size()), bad);
  return bad ? json::value() : v;
}

// The text that one event of the stream adds; an error of the server goes to `error`.
std::string delta_text(std::string_view data, std::string& error) {
  const json::value v = parsed(data);
  error = text_at(v, "/error/message");
  return text_at(v, "/choices/0/delta/content");
}

// What a refusal says, for somebody who did not send JSON.
std::string refusal(const std::string& body) {
  const std::string message = text_at(parsed(body), "/error/message");
  return message.empty() ? body : message;
}

// Sends the conversation and prints the answer as it comes. False when it failed.
bool answer(HttpClient& client, const ChatOptions& options, json::array& messages) {
  const json::object request{{"model", "default"},
                             {"stream", true},
                             {"messages", messages},
                             {"temperature", options.temperature},
                             {"max_tokens", options.max_tokens}};
  std::string said, error;
  const auto reply =
      client.post_stream("/v1/chat/completions", json::serialize(request), [&](std::string_view data) {
        const std::string piece = data == "[DONE]" ? "" : delta_text(data, error);
        said += piece;
        std::fputs(piece.c_str(), stdout);
        std::fflush(stdout);
        return error.empty();
      });
  std::puts("");
  if (!reply.ok()) error = std::string(reply.status().message());
  if (reply.ok() && reply->status != 200) error = refusal(reply->body);
  if (error.empty()) {
    messages.push_back({{"role", "assistant"}, {"content", said}});
    return true;
  }
  std::fprintf(stderr, "baton: %s\n", error.c_str());
  return false;
}

}  // namespace

int run_chat(const ChatOptions& options) {
  const auto server = server_place(options.url);
  if (!server.ok()) {
    std::fprintf(stderr, "baton: %s\n", std::string(server.status().message()).c_str());
    return absl::IsInvalidArgument(server.status()) ? kExitUsage : kExitFailed;
  }
  HttpClient client(*server, std::chrono::seconds(600));
  json::array messages;
  if (!options.system.empty()) messages.push_back({{"role", "system"}, {"content", options.system}});
  const bool terminal = ::isatty(0) != 0;
  if (terminal) std::puts("Ctrl-D ends the conversation.");
  bool all_answered = true;
  for (std::string line;;) {
    if (terminal) {
      std::fputs("> ", stdout);
      std::fflush(stdout);
    }
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    messages.push_back({{"role", "user"}, {"content", line}});
    if (answer(client, options, messages)) continue;
    messages.pop_back();
    all_answered = false;
  }
  if (terminal) std::puts("");
  return all_answered ? kExitOk : kExitFailed;
}

}  // namespace baton::cli
