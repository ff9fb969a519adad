#pragma once

#include <boost/json.hpp>
#include <map>
#include <string>

#include "text/model_text.h"

namespace baton::coordinator {

// Ids 0 to 255 are bytes, then come control tokens and a few longer ones.
inline constexpr TokenId kEnd = 256;
inline constexpr TokenId kBegin = 257;
inline constexpr TokenId kUserMark = 258;
inline constexpr TokenId kHello = 259;     // " hello"
inline constexpr TokenId kStopHalf = 260;  // "ST"
inline constexpr int32_t kVocab = 300;

// A tokeniser small enough to read: text is its bytes, spellings of control tokens are found when they may
// be.
class ByteTokenizer final : public text::Tokenizer {
 public:
  absl::StatusOr<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options) const override {
    std::vector<TokenId> ids;
    if (options.most_tokens > 0 && text.size() > options.most_tokens)  // a token is a byte at least
      return absl::OutOfRangeError("at least " + std::to_string(text.size()) + " tokens");
    if (options.add_special) ids.push_back(kBegin);
    while (!text.empty()) {
      TokenId id = static_cast<unsigned char>(text[0]);
      size_t bytes = 1;
      for (const auto& [special, piece] : pieces_)
        if (options.parse_special && is_special(special) && text.starts_with(piece)) {
          id = special;
          bytes = piece.size();
        }
      ids.push_back(id);
      text.remove_prefix(bytes);
    }
    return ids;
  }
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override {
    text::StreamDecoder decoder(*this, skip_special);
    std::string text;
    for (const TokenId id : ids) text += decoder.append(id);
    return text + decoder.finish();
  }
  std::string token_bytes(TokenId id) const override { return is_special(id) ? "" : token_piece(id); }
  std::string token_piece(TokenId id) const override {
    if (id < 256) return std::string(1, static_cast<char>(id));
    const auto it = pieces_.find(id);
    return it == pieces_.end() ? "<unused" + std::to_string(id) + ">" : it->second;
  }
  bool is_special(TokenId id) const override { return id >= kEnd && id <= kUserMark; }
  int32_t vocab_size() const override { return kVocab; }

 private:
  const std::map<TokenId, std::string> pieces_ = {
      {kEnd, "<end>"}, {kBegin, "<begin>"}, {kUserMark, "<user>"}, {kHello, " hello"}, {kStopHalf, "ST"}};
};

// "role:content" per message, the tools' number, and the extra `mood`.
class LineTemplate final : public text::ChatTemplate {
 public:
  const std::string& source() const override { return source_; }
  absl::StatusOr<std::string> render(std::string_view context_json) const override {
    const auto context = boost::json::parse(context_json).as_object();
    std::string out;
    for (const auto& m : context.at("messages").as_array()) {
      if (m.at("role") == "forbidden") return absl::InvalidArgumentError("no such role");
      out += std::string(m.at("role").as_string()) + ":" + std::string(m.at("content").as_string()) + "|";
    }
    if (const auto* tools = context.if_contains("tools"))
      out += "tools" + std::to_string(tools->as_array().size()) + "|";
    if (const auto* mood = context.if_contains("mood")) out += "mood=" + std::string(mood->as_string()) + "|";
    if (context.at("add_generation_prompt").as_bool()) out += "assistant:";
    return out;
  }

 private:
  const std::string source_ = "{{ tools }} <tool_call>";
};

inline text::ModelText fake_model() {
  text::ModelText model;
  model.tokenizer = std::make_unique<ByteTokenizer>();
  model.chat_template = std::make_unique<LineTemplate>();
  model.end_token_ids = {kEnd};
  model.context_tokens = 1000;
  model.default_name = "fake";
  model.tool_syntax = text::tool_syntax(model.chat_template->source());
  return model;
}

}  // namespace baton::coordinator
