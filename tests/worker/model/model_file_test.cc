#include "worker/model/model_file.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/rng.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::worker {
namespace {

using baton::testing::RandomModel;
using baton::testing::read_file;
using baton::testing::TempDir;
using baton::testing::write_file;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ModelFiles : public ::testing::Test {
 protected:
  ModelFiles() : dir_("model-file") { EXPECT_TRUE(RandomModel({}).write_gguf(gguf())); }
  std::string gguf() const { return dir_.file("m.gguf"); }
  std::string hf() const { return dir_.file("hf"); }
  static std::string refusal(const std::string& path) {
    const auto model = ModelFile::open(path);
    return model.ok() ? "accepted" : std::string(model.status().message());
  }
  // Replaces `from` (which must be there) by as many bytes.
  static void patch(const std::string& path, const std::string& from, const std::string& to) {
    std::string bytes = read_file(path);
    const size_t at = bytes.find(from);
    ASSERT_NE(at, bytes.npos) << from;
    ASSERT_EQ(from.size(), to.size());
    bytes.replace(at, from.size(), to);
    write_file(path, bytes);
  }
  TempDir dir_;
};

TEST_F(ModelFiles, OpensBothForms) {
  const RandomModel model({});
  const auto file = ModelFile::open(gguf());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_NE((*file)->gguf(), nullptr);
  EXPECT_EQ((*file)->spec().layers, 2);
  EXPECT_EQ((*file)->weights().layers.size(), 2u);
  EXPECT_EQ((*file)->weights().final_norm, model.values("output_norm.weight"));
  EXPECT_EQ((*file)->weights().layers[1].q.rows, 64);
  ASSERT_TRUE(model.write_hugging_face(hf()));
  const auto directory = ModelFile::open(hf());
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ((*directory)->gguf(), nullptr);
  EXPECT_EQ((*directory)->weights().layers[1].ffn_norm, (*file)->weights().layers[1].ffn_norm);
}

TEST_F(ModelFiles, BiasesAreStacked) {
  const RandomModel model({.architecture = "qwen2"});
  ASSERT_TRUE(model.write_gguf(gguf()));
  const auto file = ModelFile::open(gguf());
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<float> want = model.values("blk.1.attn_q.bias");
  for (const char* name : {"blk.1.attn_k.bias", "blk.1.attn_v.bias"})
    want.insert(want.end(), model.values(name).begin(), model.values(name).end());
  EXPECT_EQ((*file)->weights().layers[1].qkv_bias, want);
}

TEST_F(ModelFiles, HashTellsModelsApart) {
  const std::string first = (*ModelFile::open(gguf()))->hash();
  EXPECT_EQ(first.size(), 32u);
  EXPECT_EQ(first, (*ModelFile::open(gguf()))->hash());
  std::filesystem::copy_file(gguf(), dir_.file("copy.gguf"));
  EXPECT_EQ(first, (*ModelFile::open(dir_.file("copy.gguf")))->hash()) << "the path must not matter";
  std::string bytes = read_file(gguf());
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(gguf(), bytes);
  EXPECT_NE(first, (*ModelFile::open(gguf()))->hash()) << "one bit of a small tensor";
  ASSERT_TRUE(RandomModel({.norm_eps = 2e-5}).write_gguf(gguf()));
  EXPECT_NE(first, (*ModelFile::open(gguf()))->hash());
}

TEST_F(ModelFiles, RefusesMissingExtraAndMisshapenTensors) {
  EXPECT_EQ(refusal(gguf()), "accepted");
  patch(gguf(), "blk.1.attn_q.weight", "blk.1.attn_x.weight");
  EXPECT_EQ(refusal(gguf()), gguf() + ": blk.1.attn_q.weight: the tensor is missing");
  ASSERT_TRUE(RandomModel({.layers = 3}).write_gguf(gguf()));
  patch(gguf(), std::string("block_count\x04\0\0\0\x03", 16), std::string("block_count\x04\0\0\0\x02", 16));
  EXPECT_THAT(refusal(gguf()),
              HasSubstr("m.gguf: blk.2.attn_k.weight: is no part of a llama model of 2 layers"));
  ASSERT_TRUE(RandomModel({}).write_gguf(gguf()));
  patch(gguf(), std::string("feed_forward_length\x04\0\0\0\x60", 24),
        std::string("feed_forward_length\x04\0\0\0\x40", 24));
  EXPECT_EQ(refusal(gguf()), gguf() + ": blk.0.ffn_gate.weight: shape [96, 64], want [64, 64]");
}

TEST_F(ModelFiles, RefusesNormsThatAreNotFinite) {
  const float first = RandomModel({}).values("blk.1.ffn_norm.weight")[0];
  const float infinite = INFINITY;
  patch(gguf(), std::string(reinterpret_cast<const char*>(&first), 4),
        std::string(reinterpret_cast<const char*>(&infinite), 4));
  EXPECT_EQ(refusal(gguf()),
            gguf() + ": blk.1.ffn_norm.weight: a value is infinite or not a number: the file is damaged");
}

TEST_F(ModelFiles, RefusesOtherThings) {
  EXPECT_THAT(refusal(dir_.file("none")), HasSubstr("there is no such model"));
  write_file(dir_.file("text.gguf"), "not a model");
  EXPECT_THAT(refusal(dir_.file("text.gguf")), HasSubstr("text.gguf: header"));
  write_file(dir_.file("empty.gguf"), "");
  EXPECT_THAT(refusal(dir_.file("empty.gguf")), HasSubstr("empty"));
  EXPECT_THAT(refusal(dir_.path()), HasSubstr("config.json"));
  ASSERT_TRUE(RandomModel({}).write_hugging_face(hf()));
  std::filesystem::remove(hf() + "/model.safetensors");
  EXPECT_THAT(refusal(hf()), HasSubstr("neither model.safetensors nor"));
}

TEST_F(ModelFiles, RefusesHuggingFaceDirectoriesThatDoNotFit) {
  ASSERT_TRUE(RandomModel({}).write_hugging_face(hf()));
  EXPECT_EQ(refusal(hf()), "accepted");
  patch(hf() + "/model.safetensors", "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.up_prox.weight");
  EXPECT_THAT(refusal(hf()), HasSubstr("model.layers.1.mlp.up_proj.weight: the tensor is missing"));
  ASSERT_TRUE(RandomModel({}).write_hugging_face(hf()));
  patch(hf() + "/model.safetensors", "\"F32\"", "\"U32\"");
  EXPECT_THAT(refusal(hf()), HasSubstr("element type is not supported"));
  ASSERT_TRUE(RandomModel({}).write_hugging_face(hf(), ", \"attention_bias\": true"));
  EXPECT_THAT(refusal(hf()), HasSubstr("model.layers.0.self_attn.q_proj.bias: the tensor is missing"));
}

TEST_F(ModelFiles, OddHeaderLengthsStillGiveAlignedWeights) {
  const RandomModel model({});
  ASSERT_TRUE(model.write_hugging_face(hf()));
  const std::string path = hf() + "/model.safetensors";
  for (int pad = 0; pad < 4; ++pad) {
    std::string bytes = read_file(path);
    uint64_t size = 0;
    std::memcpy(&size, bytes.data(), 8);
    bytes.insert(8 + size, " ");
    ++size;
    std::memcpy(bytes.data(), &size, 8);
    write_file(path, bytes);
    const auto file = ModelFile::open(hf());
    ASSERT_TRUE(file.ok()) << file.status();
    const auto& view = (*file)->weights().layers[0].v;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 4, 0u);
    EXPECT_EQ(std::memcmp(view.data, model.values("blk.0.attn_v.weight").data(), 4 * view.rows * view.cols),
              0);
  }
}

// A model file cut anywhere is refused; one with flipped header bits opens or is refused, and never reads
// outside (the sanitizer build watches).
TEST_F(ModelFiles, TruncatedAndFlippedFiles) {
  ASSERT_TRUE(RandomModel({.vocab = 16, .hidden = 32, .ffn = 32, .layers = 1, .heads = 2, .kv_heads = 1})
                  .write_gguf(gguf()));
  const std::string good = read_file(gguf());
  constexpr uint64_t kSeed = 4711;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  Rng rng(kSeed);
  const std::string bad = dir_.file("bad.gguf");
  for (int round = 0; round < 100; ++round) {
    write_file(bad, good.substr(0, rng.below(good.size())));
    EXPECT_THAT(refusal(bad), StartsWith(bad + ": "));
  }
  for (int round = 0; round < 600; ++round) {
    std::string bytes = good;
    const uint64_t at = rng.below(1400);
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8)));
    write_file(bad, bytes);
    const auto model = ModelFile::open(bad);
    if (!model.ok()) {
      EXPECT_THAT(std::string(model.status().message()), StartsWith(bad + ": "));
    }
  }
}

}  // namespace
}  // namespace baton::worker
