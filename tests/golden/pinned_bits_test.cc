// What a numerics id promises: workers with equal ids compute equal bits, today's and last year's. Logits of
// small made-up models, every weight format and KV type, are held against a table of hashes kept under the
// id; every instruction set must meet the same table.
#include <gmock/gmock.h>

#include <bit>
#include <cstdio>
#include <iostream>
#include <map>

#include "base/cat.h"
#include "tests/golden/exactness_jobs.h"
#include "tests/golden/random_file.h"

namespace baton {
namespace {

using kernels::KvType;
using kernels::Numerics;
using testing::EngineSetup;
using testing::ModelUnderTest;
using testing::RandomFile;
using testing::RandomModelOptions;

struct MadeUpModel {
  std::string name;
  RandomModelOptions options;
};

// One for every weight format, and one with norms of q and k.
std::vector<MadeUpModel> made_up_models() {
  RandomModelOptions options{.vocab = 64,
                             .hidden = 256,
                             .ffn = 256,
                             .layers = 1,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_dim = 64,
                             .seed = 11};
  std::vector<MadeUpModel> models;
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                           DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kQ2_K, DType::kIQ2_XXS}) {
    options.matrix = options.embedding = type;
    models.push_back({std::string(traits_of(type).name), options});
  }
  options.architecture = "qwen3";
  options.matrix = options.embedding = DType::kQ8_0;
  models.push_back({"qwen3 Q8_0", options});
  return models;
}

// The hashes of one id, in the order of made_up_models().
using Row = std::vector<uint64_t>;

const std::map<std::string, Row>& pinned() {
  static const std::map<std::string, Row> table = {
      {"cpu-int8g32-v2/kv-f32",
       {0x43dcf8f99535a7a7, 0xca197ce0c42a4c68, 0xfccdaf0de5df6013, 0x3f02e5ad49ca4b57, 0x11e2b2061820eb14,
        0x0278a05ed3f01075, 0xcdb9e71563a06fdd, 0xe5c7a2e4e35f4f4b, 0xbb14102c4a9ba45c, 0x499b79da20948274,
        0x14f789df44a6c13c, 0xec82bb0d391059af}},
      {"cpu-int8g32-v2/kv-bf16",
       {0xd33c668b769f66e4, 0xa660e1f0b597b26c, 0xb4373c438b89d04a, 0xd96f63d086979196, 0x3b18e3eb3d8fc979,
        0x1b6f6fbcc89b2949, 0xf43cb1e5b7129f74, 0xc211ca47fc04f76f, 0xd8c021e1b4a8b6b2, 0x58776d95b7166300,
        0x7dd9d65a14a5274b, 0x79c56e19965bde21}},
      {"cpu-int8g32-v2/kv-f16",
       {0x71fe5d71434f63e0, 0xa99caef93bc2c37f, 0x3b5b4e63b1409a17, 0x7e869e4a0033ffc1, 0x0035e9ca22f2906e,
        0xead73b5f23b09e24, 0x05b340ef5d55e0a4, 0xb6f804ee084e7152, 0xb2a6dcfa62ea90a9, 0x3264186919b86b66,
        0x56581e6e142dd322, 0x9c3afbfe5bd98086}},
      {"cpu-int8g32-v2/kv-int8",
       {0xa710ed2605bcb34c, 0x72d959fef429a41d, 0x139aea2d21d1f06a, 0xf63a5b1044af024f, 0x8303a9f7ebd07651,
        0xdd8d5e5c8d31b3cb, 0x9d486f59a81cb359, 0x833b5f96a93f7a9e, 0xfbaac0e5b8c217c9, 0x2cd2e6d9f6a76887,
        0x114396950fd99442, 0x445a030b64ef8e09}},
      {"cpu-int8g32-v2+bf16dot/kv-f32",
       {0x43dcf8f99535a7a7, 0xca197ce0c42a4c68, 0xcb0831babb90945a, 0x3f02e5ad49ca4b57, 0x11e2b2061820eb14,
        0x0278a05ed3f01075, 0xcdb9e71563a06fdd, 0xe5c7a2e4e35f4f4b, 0xbb14102c4a9ba45c, 0x499b79da20948274,
        0x14f789df44a6c13c, 0xec82bb0d391059af}},
      {"cpu-int8g32-v2+bf16dot/kv-bf16",
       {0x6334c7401886de9d, 0xcec21fd077ae5a0a, 0x062157ab5388e214, 0x0bdfae0e1b0ba4ad, 0x793fdb8d76fd9faa,
        0x130256424919739e, 0x4a651b99f195eff2, 0xdde5a6cea81ec192, 0x40195a0768ae04b0, 0x3c1e8acf4a6ce514,
        0x6cb2359c162d5f7f, 0xf1e7dc0fb2ea47f7}},
      {"cpu-int8g32-v2+bf16dot/kv-f16",
       {0x71fe5d71434f63e0, 0xa99caef93bc2c37f, 0xb154432dd3739c5c, 0x7e869e4a0033ffc1, 0x0035e9ca22f2906e,
        0xead73b5f23b09e24, 0x05b340ef5d55e0a4, 0xb6f804ee084e7152, 0xb2a6dcfa62ea90a9, 0x3264186919b86b66,
        0x56581e6e142dd322, 0x9c3afbfe5bd98086}},
      {"cpu-int8g32-v2+bf16dot/kv-int8",
       {0xa710ed2605bcb34c, 0x72d959fef429a41d, 0x6ccf339988424c26, 0xf63a5b1044af024f, 0x8303a9f7ebd07651,
        0xdd8d5e5c8d31b3cb, 0x9d486f59a81cb359, 0x833b5f96a93f7a9e, 0xfbaac0e5b8c217c9, 0x2cd2e6d9f6a76887,
        0x114396950fd99442, 0x445a030b64ef8e09}},
  };
  return table;
}

// FNV-1a over the bits of all logits of a prompt of two blocks and three tokens after it.
uint64_t hash_of_logits(ModelUnderTest& engine) {
  const auto outcomes = run_jobs(engine, testing::make_jobs({19}, 4, 64), {});
  uint64_t hash = 0xcbf29ce484222325u;
  for (const std::vector<float>& logits : outcomes.at(0).logits)
    for (const float x : logits) hash = (hash ^ std::bit_cast<uint32_t>(x)) * 0x100000001b3u;
  return hash;
}

std::string as_source(const std::string& id, const Row& row) {
  std::string out = cat("{\"", id, "\", {");
  for (const uint64_t hash : row) {
    char text[32];
    std::snprintf(text, sizeof(text), "0x%016llx, ", static_cast<unsigned long long>(hash));
    out += text;
  }
  return out + "}},";
}

class PinnedBits : public ::testing::TestWithParam<std::tuple<Numerics, KvType>> {
 protected:
  // Hashes of all models on one instruction set; what it and its class are called.
  void compute(const std::string& isa_limit) {
    EngineSetup setup;
    setup.device = "cpu";
    setup.isa_limit = isa_limit;
    std::tie(setup.numerics, setup.kv) = GetParam();
    setup.blocks = 3;
    setup.max_rows = 32;
    row_.clear();
    for (const auto& file : files()) {
      auto engine = ModelUnderTest::open(file->path(), setup);
      ASSERT_TRUE(engine.ok()) << engine.status();
      row_.push_back(hash_of_logits(**engine));
      id_ = (*engine)->backend().numerics_id(setup.kv);
      machine_ = (*engine)->backend().description();
    }
  }

  void expect_pinned() const {
    const auto found = pinned().find(id_);
    ASSERT_NE(found, pinned().end())
        << "no bits are pinned for " << id_ << ". A new class or version of numerics: put this row into "
        << "pinned() of tests/golden/pinned_bits_test.cc in place of the old version's\n"
        << as_source(id_, row_);
    const auto models = made_up_models();
    ASSERT_EQ(found->second.size(), models.size());
    for (size_t i = 0; i < models.size(); ++i)
      EXPECT_EQ(row_[i], found->second[i])
          << "bits changed: raise the contract version in kernels/cpu/cpu_backend.cc (numerics_id), or the "
          << "workers of two releases pass for equal and a stream moved between them changes. Logits of "
          << models[i].name << " weights, " << id_ << ", on " << machine_;
  }

  Row row_;
  std::string id_, machine_;

 private:
  static const std::vector<std::unique_ptr<RandomFile>>& files() {
    static const auto made = [] {
      std::vector<std::unique_ptr<RandomFile>> out;
      for (const MadeUpModel& model : made_up_models())
        out.push_back(std::make_unique<RandomFile>(model.options));
      return out;
    }();
    return made;
  }
};

TEST_P(PinnedBits, OnEveryInstructionSet) {
  std::string before;
  for (const char* isa_limit :
       {"", "avx512-vnni-bf16", "avx512-vnni", "avx512", "avx2-vnni", "avx2", "scalar"}) {
    ASSERT_NO_FATAL_FAILURE(compute(isa_limit));
    if (machine_ == before) continue;
    before = machine_;
    std::cout << id_ << " on " << machine_ << "\n";
    ASSERT_NO_FATAL_FAILURE(expect_pinned());
  }
}

std::string class_name(const ::testing::TestParamInfo<PinnedBits::ParamType>& info) {
  const std::string kv[] = {"F32", "BF16", "F16", "Int8"};
  return cat(std::get<0>(info.param) == Numerics::kBrainDots ? "BrainDots" : "Float", "Kv",
             kv[static_cast<int>(std::get<1>(info.param))]);
}

INSTANTIATE_TEST_SUITE_P(Classes, PinnedBits,
                         ::testing::Combine(::testing::Values(Numerics::kFloat, Numerics::kBrainDots),
                                            ::testing::Values(KvType::kF32, KvType::kBF16, KvType::kF16,
                                                              KvType::kInt8)),
                         class_name);

}  // namespace
}  // namespace baton
