#pragma once

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "tests/text/shared_models.h"
#include "text/model_text.h"

namespace baton::text {

// What a model is for grammars, at its smallest: tokens 0 to 255 are the bytes, then come these control
// tokens, of which the first ends an answer.
inline ModelText byte_model(const std::string& chat_template,
                            const std::vector<std::string>& control = {"<end>"}) {
  const auto character = [](int code) {
    return code < 0x80
               ? std::string(1, static_cast<char>(code))
               : std::string{static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  };
  boost::json::object vocab;
  int beyond = 256;  // byte-level BPE writes bytes that are no visible character as those from here on
  for (int byte = 0; byte < 256; ++byte) {
    const bool visible = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    vocab[character(visible ? byte : beyond++)] = byte;
  }
  boost::json::array added;
  for (const std::string& name : control)
    added.push_back({{"id", 256 + added.size()},
                     {"content", name},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const boost::json::object level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const boost::json::object bpe = {
      {"type", "BPE"}, {"byte_fallback", false}, {"vocab", vocab}, {"merges", boost::json::array()}};
  const ScratchDirectory files;
  files.write("tokenizer.json", boost::json::serialize(boost::json::object{{"version", "1.0"},
                                                                           {"added_tokens", added},
                                                                           {"pre_tokenizer", level},
                                                                           {"decoder", level},
                                                                           {"model", bpe}}));
  files.write("generation_config.json", R"({"eos_token_id": 256})");
  files.write("chat_template.jinja", chat_template);
  return load_model_text(files.path().string()).value();
}

}  // namespace baton::text
