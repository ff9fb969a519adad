// Token ids against goldens made by other implementations.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/text/shared_models.h"

namespace baton::text {
namespace {

namespace fs = std::filesystem;
constexpr Tokenizer::EncodeOptions kPlain{.add_special = false, .parse_special = false};

std::vector<std::string> golden_inputs(const std::string& path) {
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  const std::string all = read_text(path);
  std::vector<std::string> inputs;
  for (size_t at = 0; at < all.size();) {
    const size_t end = all.find(kSeparator, at);
    if (end == std::string::npos) break;
    inputs.push_back(all.substr(at, end - at));
    at = end + kSeparator.size();
  }
  return inputs;
}

std::vector<std::vector<TokenId>> golden_outputs(const std::string& path) {
  std::vector<std::vector<TokenId>> outputs;
  std::istringstream lines(read_text(path));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    outputs.emplace_back(std::istream_iterator<TokenId>(numbers), std::istream_iterator<TokenId>());
  }
  return outputs;
}

void check_vocabulary(const fs::path& gguf, const std::string& inputs_path) {
  SCOPED_TRACE(gguf.filename().string());
  auto model = load_model_text(gguf.string());
  ASSERT_TRUE(model.ok()) << model.status();
  const auto inputs = golden_inputs(inputs_path);
  const auto outputs = golden_outputs(gguf.string() + ".out");
  ASSERT_GE(inputs.size(), 40u);
  ASSERT_EQ(inputs.size(), outputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto ids = model->tokenizer->encode(inputs[i], kPlain);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, outputs[i]) << "case " << i << ": " << inputs[i];
    // Back to text: SentencePiece puts a space in front of the first word.
    const std::string text = model->tokenizer->decode(*ids, true);
    EXPECT_TRUE(text == inputs[i] || text == " " + inputs[i]) << "case " << i << ": " << text;
  }
}

TEST(TokenizerGolden, LlamaCppVocabularies) {
  SKIP_WITHOUT_SHARED_MODELS();
  const std::string folder = shared_models() + "/ggml-vocab/";
  for (const char* name : {"gpt-2", "llama-spm", "starcoder"})
    check_vocabulary(folder + "ggml-vocab-" + name + ".gguf", folder + "all.inp");
  // By hand: a folder of more of them, X.gguf with X.gguf.inp and X.gguf.out.
  const char* more = std::getenv("BATON_GGML_VOCAB");
  if (more == nullptr) return;
  for (const auto& file : fs::directory_iterator(more)) {
    const std::string inputs = file.path().string() + ".inp";
    if (file.path().extension() == ".gguf" && fs::exists(inputs)) check_vocabulary(file.path(), inputs);
  }
}

void check_strings(const Tokenizer& tokenizer, const std::string& golden) {
  const auto cases = read_json(golden);
  ASSERT_GE(cases.as_array().size(), 50u);
  for (const auto& c : cases.as_array()) {
    const std::string text = str(c.at("text"));
    const auto ids = tokenizer.encode(text, {.add_special = false, .parse_special = true});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, ids_of(c.at("ids"))) << text;
    EXPECT_EQ(tokenizer.decode(*ids, false), text);
  }
}

TEST(TokenizerGolden, HuggingFaceDirectories) {
  SKIP_WITHOUT_SHARED_MODELS();
  for (const char* name : {"smollm2", "minimind2-small"}) {
    SCOPED_TRACE(name);
    const std::string folder = shared_models() + "/" + name;
    auto model = load_model_text(folder);
    ASSERT_TRUE(model.ok()) << model.status();
    check_strings(*model->tokenizer, folder + "/tokens.golden.json");
  }
}

std::string smollm2_gguf() {
  const char* path = std::getenv("BATON_SMOLLM2");
  return path != nullptr && fs::exists(path) ? path : "";
}

#define SKIP_WITHOUT_SMOLLM2() \
  if (smollm2_gguf().empty()) GTEST_SKIP() << "BATON_SMOLLM2 names no SmolLM2-135M-Instruct.Q4_1.gguf"

TEST(TokenizerGolden, SmolLm2Gguf) {
  SKIP_WITHOUT_SHARED_MODELS();
  SKIP_WITHOUT_SMOLLM2();
  auto model = load_model_text(smollm2_gguf());
  ASSERT_TRUE(model.ok()) << model.status();
  check_strings(*model->tokenizer, shared_models() + "/smollm2/tokens.golden.json");
  EXPECT_EQ(model->context_tokens, 8192);
  EXPECT_EQ(model->end_token_ids, std::vector<TokenId>{2});
  EXPECT_EQ(model->bos_token, "<|im_start|>");
  EXPECT_EQ(model->eos_token, "<|im_end|>");
  EXPECT_EQ(model->tokenizer->vocab_size(), 49152);
}

// The prompts of the model goldens: raw text, and chats through the template.
void check_prompts(const ModelText& model, const boost::json::value& golden, bool add_special) {
  for (const auto& c : golden.at("cases").as_array()) {
    const auto& fields = c.as_object();
    const std::string prompt = str(c.at("prompt"));
    const bool chat = fields.contains("kind") && str(c.at("kind")) == "chat";
    const auto ids = model.tokenizer->encode(prompt, {.add_special = add_special, .parse_special = chat});
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, ids_of(c.at("prompt_ids"))) << prompt;
    if (chat) {
      const boost::json::object context{{"messages", c.at("messages")}, {"add_generation_prompt", true}};
      const auto encoded = model.encode_chat(boost::json::serialize(context));
      ASSERT_TRUE(encoded.ok()) << encoded.status();
      EXPECT_EQ(*encoded, ids_of(c.at("prompt_ids")));
    }
    std::string text = str(c.at("greedy_text"));  // stories260K's has byte tokens as they are spelled
    for (size_t at; (at = text.find("<0x0A>")) != std::string::npos;) text.replace(at, 6, "\n");
    EXPECT_EQ(model.tokenizer->decode(ids_of(c.at("greedy_ids")), true), text);
  }
}

TEST(TokenizerGolden, PromptsOfTheModelGoldens) {
  SKIP_WITHOUT_SHARED_MODELS();
  auto stories = load_model_text(shared_models() + "/stories260K-f32.gguf");
  ASSERT_TRUE(stories.ok()) << stories.status();
  check_prompts(*stories, read_json(shared_models() + "/golden/stories260K.json"), true);
  EXPECT_EQ(stories->context_tokens, 512);
  auto smollm2 = load_model_text(shared_models() + "/smollm2");
  ASSERT_TRUE(smollm2.ok()) << smollm2.status();
  check_prompts(*smollm2, read_json(shared_models() + "/golden/smollm2-135m-q4_1.json"), true);
}

TEST(TokenizerGolden, PromptsOfTheModelGoldensBySmolLm2Gguf) {
  SKIP_WITHOUT_SHARED_MODELS();
  SKIP_WITHOUT_SMOLLM2();
  auto gguf = load_model_text(smollm2_gguf());
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  check_prompts(*gguf, read_json(shared_models() + "/golden/smollm2-135m-q4_1.json"), true);
}

// A long text: the GGUF vocabulary and the tokenizer.json give the same ids, and the text comes back.
TEST(TokenizerGolden, LongText) {
  SKIP_WITHOUT_SHARED_MODELS();
  const std::string text = read_text(shared_models() + "/text/opticks.txt");
  auto directory = load_model_text(shared_models() + "/smollm2");
  ASSERT_TRUE(directory.ok()) << directory.status();
  const auto ids = directory->tokenizer->encode(text, kPlain);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), 4096u);
  EXPECT_EQ(directory->tokenizer->decode(*ids, true), text);
  auto spm = load_model_text(shared_models() + "/ggml-vocab/ggml-vocab-llama-spm.gguf");
  ASSERT_TRUE(spm.ok()) << spm.status();
  const auto spm_ids = spm->tokenizer->encode(text, kPlain);
  ASSERT_TRUE(spm_ids.ok());
  EXPECT_EQ(spm->tokenizer->decode(*spm_ids, true), " " + text);
}

TEST(Tokenizer, SpecialTokensInUserTextAreText) {
  SKIP_WITHOUT_SHARED_MODELS();
  for (const char* name : {"smollm2", "minimind2-small", "ggml-vocab/ggml-vocab-llama-spm.gguf",
                           "ggml-vocab/ggml-vocab-gpt-2.gguf", "ggml-vocab/ggml-vocab-starcoder.gguf"}) {
    SCOPED_TRACE(name);
    auto model = load_model_text(shared_models() + "/" + name);
    ASSERT_TRUE(model.ok()) << model.status();
    const Tokenizer& tokenizer = *model->tokenizer;
    int special = 0;
    for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
      if (!tokenizer.is_special(id)) continue;
      ++special;
      const std::string spelling = tokenizer.token_piece(id);
      const std::string text = "a " + spelling + " b" + spelling;
      const auto plain = tokenizer.encode(text, kPlain);
      ASSERT_TRUE(plain.ok());
      for (const TokenId got : *plain)
        EXPECT_FALSE(tokenizer.is_special(got)) << spelling << " became " << got;
      EXPECT_THAT(tokenizer.decode(*plain, true), ::testing::EndsWith(text));
      const auto parsed = tokenizer.encode(text, {.add_special = false, .parse_special = true});
      ASSERT_TRUE(parsed.ok());
      EXPECT_EQ(std::ranges::count(*parsed, id), 2) << spelling;
      EXPECT_EQ(tokenizer.token_bytes(id), "");
    }
    EXPECT_GT(special, 0);
  }
}

// Texts of every kind, alone and many times over, against the number of tokens that they have.
TEST(Tokenizer, RefusesAtLeastSoManyTokensOnlyWhereThereAreMore) {
  SKIP_WITHOUT_SHARED_MODELS();
  const auto inputs = golden_inputs(shared_models() + "/ggml-vocab/all.inp");
  ASSERT_GT(inputs.size(), 10u);
  int refused = 0;
  for (const char* name :
       {"smollm2", "minimind2-small", "stories260K-f32.gguf", "ggml-vocab/ggml-vocab-llama-spm.gguf",
        "ggml-vocab/ggml-vocab-gpt-2.gguf", "ggml-vocab/ggml-vocab-starcoder.gguf"}) {
    SCOPED_TRACE(name);
    auto model = load_model_text(shared_models() + "/" + name);
    ASSERT_TRUE(model.ok()) << model.status();
    for (const std::string& input : inputs) {
      for (const int times : {1, 40}) {
        std::string text;
        for (int i = 0; i < times; ++i) text += input;
        Tokenizer::EncodeOptions options{.add_special = false, .parse_special = times == 1};
        const auto ids = model->tokenizer->encode(text, options);
        ASSERT_TRUE(ids.ok()) << ids.status();
        options.most_tokens = std::max<size_t>(ids->size(), 1);
        EXPECT_EQ(model->tokenizer->encode(text, options).status(), absl::OkStatus()) << text;
        options.most_tokens = std::max<size_t>(ids->size() / 8, 1);
        refused += absl::IsOutOfRange(model->tokenizer->encode(text, options).status());
      }
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(Tokenizer, MegabytesThatCannotFitAreRefusedBeforeTheyAreTokenised) {
  SKIP_WITHOUT_SHARED_MODELS();
  auto model = load_model_text(shared_models() + "/smollm2");
  ASSERT_TRUE(model.ok()) << model.status();
  const Tokenizer::EncodeOptions options{.add_special = true, .parse_special = false, .most_tokens = 8192};
  for (const auto& [piece, least] : {std::pair("7", 4194304), {"<|im_end|>", 100000}, {"漢字", 400000}}) {
    std::string text;
    while (text.size() < 4194304) text += piece;
    const auto ids = model->tokenizer->encode(text, options);
    ASSERT_EQ(ids.status().code(), absl::StatusCode::kOutOfRange) << piece;
    int said = 0;
    ASSERT_EQ(sscanf(std::string(ids.status().message()).c_str(), "at least %d tokens", &said), 1);
    EXPECT_GE(said, least) << piece;
    const std::string context = R"({"messages": [{"role": "user", "content": ")" + text + R"("}]})";
    EXPECT_EQ(model->encode_chat(context, 8192).status().code(), absl::StatusCode::kOutOfRange) << piece;
  }
  // A text that might fit is tokenised: the caller counts.
  EXPECT_GT(model->tokenizer->encode(std::string(12000, 'x'), options)->size(), 0u);
}

TEST(Tokenizer, BosAndEosAsTheFileSays) {
  SKIP_WITHOUT_SHARED_MODELS();
  auto spm = load_model_text(shared_models() + "/ggml-vocab/ggml-vocab-llama-spm.gguf");
  ASSERT_TRUE(spm.ok()) << spm.status();
  const auto ids = spm->tokenizer->encode("Hello", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, ::testing::ElementsAre(1, 15043));
  auto smollm2 = load_model_text(shared_models() + "/smollm2");
  ASSERT_TRUE(smollm2.ok());
  EXPECT_EQ(*smollm2->tokenizer->encode("Hello world", {}), (std::vector<TokenId>{19556, 905}));
}

TEST(Tokenizer, RefusesTextThatIsNoUtf8) {
  SKIP_WITHOUT_SHARED_MODELS();
  auto model = load_model_text(shared_models() + "/smollm2");
  ASSERT_TRUE(model.ok());
  const auto ids = model->tokenizer->encode("abc\xff", {});
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(ids.status().message()), "text is no UTF-8 at byte 3");
}

TEST(Tokenizer, IdsOutsideOfTheVocabulary) {
  SKIP_WITHOUT_SHARED_MODELS();
  auto model = load_model_text(shared_models() + "/smollm2");
  ASSERT_TRUE(model.ok());
  const Tokenizer& t = *model->tokenizer;
  const TokenId ids[] = {-1, 19556, 1 << 30, t.vocab_size()};
  EXPECT_EQ(t.decode(ids, false), "Hello");
  EXPECT_EQ(t.token_piece(-5), "");
  EXPECT_EQ(t.token_bytes(t.vocab_size()), "");
  EXPECT_FALSE(t.is_special(-1));
}

}  // namespace
}  // namespace baton::text
