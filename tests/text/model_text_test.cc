// Loading: what is read from each kind of model, and errors for files that are wrong.
#include "text/model_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/seed.h"
#include "tests/text/shared_models.h"

namespace baton::text {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;

std::string error_of(const std::string& path) {
  const auto model = load_model_text(path);
  return model.ok() ? "loaded" : model.status().ToString();
}

// A byte-level vocabulary of a few letters: enough for every key.
struct SmallBpe {
  std::vector<std::string> tokens = {"<s>", "</s>", "a", "b", "c", "ab", "abc", "Ġ", "<tool>"};
  std::vector<int32_t> types = {3, 3, 1, 1, 1, 1, 1, 1, 4};
  std::vector<std::string> merges = {"a b", "ab c"};
  std::string pre = "gpt-2";

  GgufWriter writer() const {
    GgufWriter w;
    w.add("general.architecture", "llama").add_u32("llama.context_length", 77);
    w.add("tokenizer.ggml.model", "gpt2").add("tokenizer.ggml.pre", pre);
    w.add_strings("tokenizer.ggml.tokens", tokens).add_i32s("tokenizer.ggml.token_type", types);
    w.add_strings("tokenizer.ggml.merges", merges);
    return w;
  }
};

class ModelTextFile : public ::testing::Test {
 protected:
  std::string save(const GgufWriter& writer) {
    const auto path = (scratch_.path() / "small.gguf").string();
    EXPECT_TRUE(writer.save(path));
    return path;
  }
  ScratchDirectory scratch_;
};

TEST_F(ModelTextFile, ReadsEveryKeyOfAGguf) {
  auto writer = SmallBpe().writer();
  writer.add_u32("tokenizer.ggml.bos_token_id", 0).add_u32("tokenizer.ggml.eos_token_id", 1);
  writer.add_u32("tokenizer.ggml.eot_token_id", 8).add_u32("tokenizer.ggml.eom_token_id", 1);
  writer.add_bool("tokenizer.ggml.add_bos_token", true).add_bool("tokenizer.ggml.add_eos_token", true);
  writer.add("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}");
  auto model = load_model_text(save(writer));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->bos_token, "<s>");
  EXPECT_EQ(model->eos_token, "</s>");
  EXPECT_THAT(model->end_token_ids, ElementsAre(1, 8));
  EXPECT_EQ(model->context_tokens, 77);
  EXPECT_EQ(model->default_name, "small");
  EXPECT_THAT(*model->tokenizer->encode("abcab", {}), ElementsAre(0, 6, 5, 1));
  EXPECT_THAT(*model->encode_chat(R"({"messages": [{"content": "ab</s>"}]})"),
              ::testing::Contains(1).Times(1));
  EXPECT_THAT(*model->tokenizer->encode("a<tool>b", {.add_special = false}), ElementsAre(2, 8, 3))
      << "user-defined tokens are found in any text";
}

TEST_F(ModelTextFile, ATokenizerWithMoreIdsThanTheEmbeddingHasRowsIsRefused) {
  const auto with_rows = [&](uint64_t rows) {
    auto writer = SmallBpe().writer();
    const std::vector<float> weights(2 * rows);
    writer.add_floats("token_embd.weight", {2, rows}, weights);
    return error_of(save(writer));
  };
  EXPECT_EQ(with_rows(9), "loaded");
  EXPECT_EQ(with_rows(16), "loaded") << "padded";
  EXPECT_THAT(with_rows(8),
              HasSubstr("small.gguf: the tokenizer has 9 ids and the model's embedding 8 rows"));
  EXPECT_THAT(with_rows(8), HasSubstr("id 8, `<tool>`, is no special token"));
}

// Like the <pad> of many fine-tuned models: nobody can write it, and the weights never got a row for it.
TEST_F(ModelTextFile, SpecialTokensBehindTheLastRowAreLetThrough) {
  SmallBpe bpe;
  bpe.tokens.insert(bpe.tokens.end(), {"<pad>", "<end>"});
  bpe.types.insert(bpe.types.end(), {3, 3});
  auto writer = bpe.writer();
  writer.add_u32("tokenizer.ggml.eos_token_id", 1).add_u32("tokenizer.ggml.eot_token_id", 10);
  writer.add_floats("token_embd.weight", {2, 9}, std::vector<float>(18));
  const auto model = load_model_text(save(writer));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->tokenizer->vocab_size(), 11);
  EXPECT_EQ(model->vocab_size(), 9);
  EXPECT_THAT(model->end_token_ids, ElementsAre(1)) << "what has no row is never drawn";
  const auto ids = *model->tokenizer->encode("a<pad>b", {.add_special = false});
  EXPECT_THAT(ids, ::testing::Each(::testing::Lt(9)));
  bpe.types[9] = 4;  // found in any text
  auto found = bpe.writer();
  found.add_floats("token_embd.weight", {2, 9}, std::vector<float>(18));
  EXPECT_THAT(error_of(save(found)), HasSubstr("id 9, `<pad>`, is no special token"));
}

TEST_F(ModelTextFile, NamesWhatIsWrongInAGguf) {
  const auto with = [&](auto edit) {
    auto writer = SmallBpe().writer();
    edit(writer);
    return error_of(save(writer));
  };
  EXPECT_THAT(error_of(save(GgufWriter())), HasSubstr("small.gguf: tokenizer.ggml.model: missing"));
  EXPECT_THAT(error_of(save(GgufWriter()
                                .add("tokenizer.ggml.model", "bert")
                                .add_strings("tokenizer.ggml.tokens", std::vector<std::string>{"a"}))),
              HasSubstr("tokenizer.ggml.model: \"bert\" is not supported"));
  EXPECT_THAT(error_of(save(GgufWriter().add("tokenizer.ggml.model", "gpt2"))),
              HasSubstr("tokenizer.ggml.tokens: missing or empty"));
  EXPECT_THAT(with([](auto& w) { w.add_u32("tokenizer.ggml.bos_token_id", 9); }),
              HasSubstr("tokenizer.ggml.bos_token_id: 9 is outside of the vocabulary of 9"));
  EXPECT_THAT(with([](auto& w) { w.add_f32("tokenizer.ggml.eos_token_id", 1); }),
              HasSubstr("want an integer"));
  EXPECT_THAT(with([](auto& w) { w.add_u32("tokenizer.ggml.add_bos_token", 1); }), HasSubstr("want a bool"));
  EXPECT_THAT(with([](auto& w) { w.add_bool("tokenizer.ggml.add_bos_token", true); }),
              HasSubstr("tokenizer.ggml.bos_token_id is missing"));
  EXPECT_THAT(with([](auto& w) { w.add("tokenizer.chat_template", "{% for %}"); }),
              HasSubstr("small.gguf: tokenizer.chat_template: chat template: line 1"));
}

TEST_F(ModelTextFile, NamesWhatIsWrongInAVocabulary) {
  SmallBpe bad;
  bad.pre = "klingon";
  EXPECT_THAT(error_of(save(bad.writer())), HasSubstr("tokenizer.ggml.pre: \"klingon\" is not supported"));
  bad = {};
  bad.types.pop_back();
  EXPECT_THAT(error_of(save(bad.writer())),
              HasSubstr("tokenizer.ggml.token_type: want one for each of the 9 tokens"));
  bad = {};
  bad.merges.push_back("nospace");
  EXPECT_THAT(error_of(save(bad.writer())), HasSubstr("tokenizer.ggml.merges: merge 2 is \"nospace\""));
  bad = {};
  bad.merges.push_back("x y");
  EXPECT_THAT(error_of(save(bad.writer())), HasSubstr("tokenizer.ggml.merges"));
  bad = {};
  bad.tokens[3] = "\xff\xfe";
  EXPECT_THAT(error_of(save(bad.writer())), HasSubstr("tokenizer.ggml.tokens: entry 3 is no UTF-8"));
}

TEST_F(ModelTextFile, NamesWhatIsWrongInASentencePieceVocabulary) {
  const auto spm = [&](std::vector<std::string> tokens, std::vector<int32_t> types,
                       std::vector<float> scores) {
    GgufWriter w;
    w.add("tokenizer.ggml.model", "llama").add_strings("tokenizer.ggml.tokens", tokens);
    w.add_i32s("tokenizer.ggml.token_type", types).add_f32s("tokenizer.ggml.scores", scores);
    w.add_bool("tokenizer.ggml.add_bos_token", false);
    return error_of(save(w));
  };
  EXPECT_EQ(spm({"<unk>", "a", "<0x0A>"}, {2, 1, 6}, {0, 0, 0}), "loaded");
  EXPECT_THAT(spm({"<unk>", "a"}, {2, 1}, {0}), HasSubstr("tokenizer.ggml.scores: 1 scores for 2 tokens"));
  EXPECT_THAT(spm({"<unk>", "a"}, {2, 1}, {0, NAN}), HasSubstr("is NaN"));
  EXPECT_THAT(spm({"<unk>", "newline"}, {2, 6}, {0, 0}), HasSubstr("byte token 1 is \"newline\""));
}

// No pre, no types: files of 2023.
TEST_F(ModelTextFile, OldFilesWithoutPreUseTheDefault) {
  GgufWriter w;
  const SmallBpe small;
  w.add("tokenizer.ggml.model", "gpt2").add_strings("tokenizer.ggml.tokens", small.tokens);
  w.add_strings("tokenizer.ggml.merges", small.merges);
  auto model = load_model_text(save(w));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(*model->tokenizer->encode("abc", {}), ElementsAre(6));
  EXPECT_EQ(model->chat_template, nullptr);
  EXPECT_TRUE(model->end_token_ids.empty());
}

// Every byte of a small model file changed: an error or a tokenizer that works, never a crash.
TEST_F(ModelTextFile, MutatedFilesNeverCrash) {
  const uint64_t seed = support::seed_or(5);
  SCOPED_TRACE(::testing::Message() << "BATON_SEED=" << seed);
  auto writer = SmallBpe().writer();
  writer.add_u32("tokenizer.ggml.bos_token_id", 0)
      .add("tokenizer.chat_template", "{{ messages[0].content }}");
  const std::string whole = writer.bytes();
  Rng rng(seed);
  int loaded = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(rng.next());
    scratch_.write("mutated.gguf", bytes);
    auto model = load_model_text((scratch_.path() / "mutated.gguf").string());
    if (!model.ok()) continue;
    ++loaded;
    const auto ids = model->tokenizer->encode("abc ab</s>é", {.add_special = true, .parse_special = true});
    if (ids.ok()) model->tokenizer->decode(*ids, false);
    if (model->chat_template != nullptr) (void)model->encode_chat(R"({"messages": [{"content": "ab"}]})");
  }
  EXPECT_GT(loaded, 0);
}

constexpr const char* kTokenizerJson =
    R"({"version": "1.0", "truncation": {"direction": "Right", "max_length": 2,
  "strategy": "LongestFirst", "stride": 0}, "padding": null,
  "added_tokens": [{"id": 3, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
  "normalized": false, "special": true}], "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {"a": 0, "b": 1, "ab": 2},
  "merges": ["a b"]}})";

class ModelTextDirectory : public ::testing::Test {
 protected:
  std::string path() const { return scratch_.path().string(); }
  ScratchDirectory scratch_;
};

TEST_F(ModelTextDirectory, ReadsItsFiles) {
  scratch_.write("tokenizer.json", kTokenizerJson);
  scratch_.write("tokenizer_config.json",
                 R"({"bos_token": {"content": "<end>"}, "eos_token": "<end>", "chat_template": [
                   {"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ messages[0].content }}{{ eos_token }}"}]})");
  scratch_.write("config.json", R"({"max_position_embeddings": 123, "eos_token_id": 0})");
  scratch_.write("generation_config.json", R"({"eos_token_id": [1, 2]})");
  auto model = load_model_text(path() + "/");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->bos_token, "<end>");
  EXPECT_EQ(model->eos_token, "<end>");
  EXPECT_THAT(model->end_token_ids, ElementsAre(1, 2, 3))
      << "generation_config.json before config.json, and eos_token";
  EXPECT_EQ(model->context_tokens, 123);
  EXPECT_EQ(model->default_name, scratch_.path().filename().string());
  EXPECT_THAT(*model->tokenizer->encode("ababab", {}), ElementsAre(2, 2, 2)) << "never truncated";
  EXPECT_THAT(*model->encode_chat(R"({"messages": [{"content": "ab"}]})"), ElementsAre(2, 3));
  scratch_.write("chat_template.jinja", "{{ eos_token }}");
  EXPECT_THAT(*load_model_text(path())->encode_chat(R"({"messages": []})"), ElementsAre(3));
}

TEST_F(ModelTextDirectory, ATokenizerAloneIsEnough) {
  scratch_.write("tokenizer.json", kTokenizerJson);
  auto model = load_model_text(path());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->chat_template, nullptr);
  EXPECT_EQ(model->encode_chat(R"({"messages": []})").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ModelTextDirectory, NamesWhatIsWrong) {
  EXPECT_THAT(error_of(path()), HasSubstr("tokenizer.json: missing"));
  EXPECT_THAT(error_of(path() + "/nothing"), HasSubstr("no such file or directory"));
  scratch_.write("tokenizer.json", "{]");
  EXPECT_THAT(error_of(path()), HasSubstr("tokenizer.json"));
  scratch_.write("tokenizer.json", R"({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}})");
  EXPECT_THAT(error_of(path()), HasSubstr("tokenizer.json: decoder: WordPiece is not supported"));
  std::string huge = kTokenizerJson;
  huge.replace(huge.find("\"ab\": 2"), 7, "\"ab\": 4000000000");
  scratch_.write("tokenizer.json", huge);
  EXPECT_THAT(error_of(path()), HasSubstr("token id 4000000000"));
  scratch_.write("tokenizer.json", kTokenizerJson);
  scratch_.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_THAT(error_of(path()), HasSubstr("tokenizer_config.json: chat_template: want a string, or a list"));
  scratch_.write("tokenizer_config.json", "[1]");
  EXPECT_THAT(error_of(path()), HasSubstr("tokenizer_config.json: want a JSON object"));
  scratch_.write("tokenizer_config.json", "{}");
  scratch_.write("generation_config.json", R"({"eos_token_id": "2"})");
  EXPECT_THAT(error_of(path()), HasSubstr("generation_config.json: eos_token_id: want an integer"));
}

TEST(ModelText, SharedModels) {
  SKIP_WITHOUT_SHARED_MODELS();
  EXPECT_THAT(error_of(shared_models() + "/stories260K-hf"),
              HasSubstr("stories260K-hf/tokenizer.json: missing"));
  auto smollm2 = load_model_text(shared_models() + "/smollm2");
  ASSERT_TRUE(smollm2.ok()) << smollm2.status();
  EXPECT_THAT(smollm2->end_token_ids, ElementsAre(2));
  EXPECT_EQ(smollm2->context_tokens, 8192);
  EXPECT_EQ(smollm2->default_name, "smollm2");
  auto stories = load_model_text(shared_models() + "/stories260K-f32.gguf");
  ASSERT_TRUE(stories.ok()) << stories.status();
  EXPECT_EQ(stories->chat_template, nullptr);
}

}  // namespace
}  // namespace baton::text
