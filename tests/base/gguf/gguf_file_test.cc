#include "base/gguf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "base/rng.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/seed.h"
#include "tests/support/temp_dir.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;

std::string error_of(std::string bytes) {
  auto file = GgufFile::from_bytes("m.gguf", std::move(bytes));
  if (file.ok()) return "";
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  std::string message(file.status().message());
  EXPECT_THAT(message, ::testing::StartsWith("m.gguf: "));
  return message;
}

// One of everything: every value type, arrays, tensors of two types.
GgufWriter sample() {
  GgufWriter w;
  const std::string tokens[] = {"<s>", "", "a\0b"};
  const int32_t types[] = {3, 1, -6};
  const float scores[] = {0.5f, -1.0f};
  const uint64_t lengths[] = {7};
  const float weights[] = {1, 2, 3, 4, 5, 6};
  w.add("general.architecture", "llama").add_u8("u8", 200).add_u32("u32", 4'000'000'000u).add_i32("i32", -5);
  w.add_u64("u64", ~uint64_t{0}).add_i64("i64", -7'000'000'000).add_f32("f32", 0.25f).add_f64("f64", 1e-300);
  w.add_bool("yes", true).add_bool("no", false).add_raw("u16", 2, std::string_view("\x01\x02", 2));
  w.add_raw("i8", 1, "\xff").add_raw("i16", 3, std::string_view("\xfe\xff", 2));
  w.add_strings("tokens", tokens)
      .add_i32s("types", types)
      .add_f32s("scores", scores)
      .add_u64s("lengths", lengths);
  w.add_raw("bools", 9, std::string_view("\7\0\0\0\2\0\0\0\0\0\0\0\1\0", 14));
  w.add_floats("a.weight", {3, 2}, weights);
  w.add_tensor("b.weight", {32, 2}, DType::kQ8_0, std::string(68, '\x11'));
  return w;
}

TEST(GgufFile, ReadsEveryValueType) {
  auto opened = GgufFile::from_bytes("m.gguf", sample().bytes());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& f = **opened;
  EXPECT_EQ(f.string("general.architecture"), "llama");
  EXPECT_EQ(f.integer("u8"), 200);
  EXPECT_EQ(f.integer("i8"), -1);
  EXPECT_EQ(f.integer("u16"), 0x0201);
  EXPECT_EQ(f.integer("i16"), -2);
  EXPECT_EQ(f.integer("u32"), 4'000'000'000);
  EXPECT_EQ(f.integer("i32"), -5);
  EXPECT_EQ(f.integer("i64"), -7'000'000'000);
  EXPECT_EQ(f.integer("u64"), std::nullopt) << "2^64 - 1 is no int64";
  EXPECT_EQ(std::get<uint64_t>(*f.find("u64")), ~uint64_t{0});
  EXPECT_EQ(f.number("f32"), 0.25);
  EXPECT_EQ(f.number("f64"), 1e-300);
  EXPECT_EQ(f.number("i32"), -5.0);
  EXPECT_EQ(f.boolean("yes"), true);
  EXPECT_EQ(f.boolean("no"), false);
}

TEST(GgufFile, KindsDoNotConvertSilently) {
  auto opened = GgufFile::from_bytes("m.gguf", sample().bytes());
  ASSERT_TRUE(opened.ok());
  const GgufFile& f = **opened;
  EXPECT_EQ(f.integer("f32"), std::nullopt);
  EXPECT_EQ(f.integer("yes"), std::nullopt);
  EXPECT_EQ(f.boolean("u8"), std::nullopt);
  EXPECT_EQ(f.string("u8"), std::nullopt);
  EXPECT_EQ(f.array("u8"), nullptr);
  EXPECT_EQ(f.number("tokens"), std::nullopt);
  EXPECT_EQ(f.find("absent"), nullptr);
  EXPECT_EQ(f.tensor("absent"), nullptr);
}

TEST(GgufFile, ReadsArrays) {
  auto opened = GgufFile::from_bytes("m.gguf", sample().bytes());
  ASSERT_TRUE(opened.ok());
  const GgufFile& f = **opened;
  EXPECT_THAT(f.array("tokens")->strings, ElementsAre("<s>", "", "a"));
  EXPECT_THAT(f.array("types")->integers, ElementsAre(3, 1, -6));
  EXPECT_THAT(f.array("scores")->floats, ElementsAre(0.5, -1.0));
  EXPECT_THAT(f.array("lengths")->integers, ElementsAre(7));
  EXPECT_THAT(f.array("bools")->integers, ElementsAre(1, 0));
}

TEST(GgufFile, PlacesTensors) {
  auto opened = GgufFile::from_bytes("m.gguf", sample().bytes());
  ASSERT_TRUE(opened.ok());
  const GgufFile& f = **opened;
  ASSERT_EQ(f.tensors().size(), 2u);
  const auto* a = f.tensor("a.weight");
  ASSERT_NE(a, nullptr);
  EXPECT_THAT(a->dims, ElementsAre(3, 2));
  EXPECT_EQ(a->type, DType::kF32);
  ASSERT_EQ(a->bytes, 24u);
  float last;
  std::memcpy(&last, a->data + 20, 4);
  EXPECT_EQ(last, 6.0f);
  const auto* b = f.tensor("b.weight");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->bytes, 68u);
  EXPECT_EQ(std::to_integer<int>(b->data[67]), 0x11);
}

TEST(GgufFile, OpensAFileAndVersion2) {
  const support::TempDir directory("gguf");
  const std::filesystem::path path = directory.file("m.gguf");
  ASSERT_TRUE(sample().set_version(2).save(path.string()));
  auto opened = GgufFile::open(path.string());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->path(), path.string());
  EXPECT_EQ((*opened)->file_bytes(), std::filesystem::file_size(path));
  EXPECT_EQ((*opened)->string("general.architecture"), "llama");
  std::filesystem::resize_file(path, 0);
  EXPECT_THAT(GgufFile::open(path.string()).status().ToString(), HasSubstr("the file is empty"));
  std::filesystem::remove(path);
  EXPECT_EQ(GgufFile::open(path.string()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(GgufFile::open(::testing::TempDir()).status().ToString(), HasSubstr("no regular file"));
}

TEST(GgufFile, RefusesBadHeaders) {
  EXPECT_THAT(error_of("GGML0000000000000000000000"),
              HasSubstr("header: no GGUF file: it starts with \"GGML\""));
  EXPECT_THAT(error_of("GG"),
              HasSubstr("magic of 4 bytes at byte 0 runs past the end of the file (2 bytes)"));
  EXPECT_THAT(error_of(GgufWriter().set_version(1).bytes()), HasSubstr("version 1; want 2 or 3"));
  EXPECT_THAT(error_of(GgufWriter().set_version(0x03000000).bytes()), HasSubstr("big-endian"));
  EXPECT_THAT(error_of(GgufWriter().set_counts(100'001, 0).bytes()),
              HasSubstr("100001 tensors; at most 100000"));
  EXPECT_THAT(error_of(GgufWriter().set_counts(0, ~uint64_t{0}).bytes()), HasSubstr("keys; at most 100000"));
  EXPECT_THAT(error_of(GgufWriter().set_counts(0, 1).bytes()), HasSubstr("key 0: length of key"));
  EXPECT_EQ(error_of(GgufWriter().bytes()), "");
}

TEST(GgufFile, RefusesBadPairs) {
  EXPECT_THAT(error_of(GgufWriter().add_u32("a", 1).add_u32("a", 1).bytes()),
              HasSubstr("key \"a\": the key stands"));
  EXPECT_THAT(error_of(GgufWriter().add_u32("", 1).bytes()), HasSubstr("a key of 0 bytes"));
  EXPECT_THAT(error_of(GgufWriter().add_u32(std::string(65'536, 'k'), 1).bytes()),
              HasSubstr("a key of 65536 bytes"));
  EXPECT_THAT(error_of(GgufWriter().add_raw("a", 13, "").bytes()), HasSubstr("unknown value type 13"));
  EXPECT_THAT(error_of(GgufWriter().add_raw("a", 7, "\2").bytes()), HasSubstr("a bool of value 2"));
  EXPECT_THAT(error_of(GgufWriter().add_raw("a", 8, std::string(8, '\xff')).bytes()),
              HasSubstr("string of 18446744073709551615 bytes"));
  EXPECT_THAT(error_of(GgufWriter().add_u32("bad\n\x1b[0m\xff", 1).add_u32("bad\n\x1b[0m\xff", 1).bytes()),
              HasSubstr("key \"bad\\x0a\\x1b[0m\\xff\""));
}

TEST(GgufFile, RefusesBadArrays) {
  const auto array = [](uint32_t type, uint64_t count, std::string_view rest) {
    std::string value(12, '\0');
    std::memcpy(value.data(), &type, 4);
    std::memcpy(value.data() + 4, &count, 8);
    return GgufWriter().add_raw("a", 9, value.append(rest)).bytes();
  };
  EXPECT_THAT(error_of(array(9, 1, std::string(20, '\0'))), HasSubstr("an array of arrays"));
  EXPECT_THAT(error_of(array(99, 1, "")), HasSubstr("unknown element type 99"));
  EXPECT_THAT(error_of(array(8, 1ull << 60, "")), HasSubstr("elements in a file with 0 bytes left"));
  EXPECT_THAT(error_of(array(4, 2, "1234567")),
              HasSubstr("an array of 2 elements in a file with 7 bytes left"));
  EXPECT_THAT(error_of(array(10, 1, std::string(8, '\xff'))), HasSubstr("at most 2^63 - 1"));
  EXPECT_THAT(error_of(array(7, 1, "\3")), HasSubstr("a bool of value 3"));
  EXPECT_THAT(error_of(array(0, (1 << 25) + 1, std::string((1 << 25) + 1, 'x'))), HasSubstr("in all arrays"));
}

TEST(GgufFile, RefusesBadTensors) {
  const uint64_t row[] = {32};
  const auto entry = [](std::span<const uint64_t> dims, uint32_t type, uint64_t offset) {
    return GgufWriter().add_tensor_entry("t", dims, type, offset).bytes() + std::string(1000, '\0');
  };
  EXPECT_THAT(error_of(entry(row, 99, 0)), HasSubstr("tensor \"t\": type 99 is not supported"));
  EXPECT_THAT(error_of(entry({}, 0, 0)), HasSubstr("0 dimensions; want 1 to 4"));
  EXPECT_THAT(error_of(entry(std::vector<uint64_t>(5, 1), 0, 0)), HasSubstr("5 dimensions"));
  EXPECT_THAT(error_of(entry(std::vector<uint64_t>{4, 0}, 0, 0)), HasSubstr("dimension 1 is 0"));
  EXPECT_THAT(error_of(entry(std::vector<uint64_t>{1ull << 63}, 0, 0)), HasSubstr("dimension 0 is 92233"));
  EXPECT_THAT(error_of(entry(std::vector<uint64_t>{1ull << 40, 1ull << 40}, 0, 0)), HasSubstr("overflows"));
  EXPECT_THAT(error_of(entry(std::vector<uint64_t>{1ull << 62}, 0, 0)), HasSubstr("size in bytes overflows"));
  EXPECT_THAT(error_of(entry(std::vector<uint64_t>{33}, 8, 0)),
              HasSubstr("rows of 33 elements; Q8_0 has blocks of 32"));
  EXPECT_THAT(error_of(entry(row, 0, 4)), HasSubstr("offset 4 is no multiple of 32"));
  EXPECT_THAT(error_of(entry(row, 0, 1024)), HasSubstr("run past the end of the data section"));
  EXPECT_THAT(error_of(entry(row, 0, ~uint64_t{31})), HasSubstr("run past the end of the data section"));
  EXPECT_THAT(error_of(entry(std::vector<uint64_t>{1 << 20}, 0, 0)), HasSubstr("run past the end"));
  EXPECT_EQ(error_of(entry(row, 0, 0)), "");
  const std::string two =
      GgufWriter().add_tensor_entry("t", row, 0, 0).add_tensor_entry("u", row, 0, 96).bytes();
  EXPECT_THAT(error_of(two + std::string(1000, '\0')), HasSubstr("tensor \"u\": overlaps tensor \"t\""));
  const std::string same =
      GgufWriter().add_tensor_entry("t", row, 0, 0).add_tensor_entry("t", row, 0, 128).bytes();
  EXPECT_THAT(error_of(same + std::string(1000, '\0')),
              HasSubstr("tensor \"t\": the name stands in the file twice"));
}

TEST(GgufFile, HonoursAlignment) {
  const float ones[] = {1, 1, 1};
  GgufWriter w;
  w.set_alignment(64).add_u32("general.alignment", 64).add_floats("a", {3}, ones).add_floats("b", {3}, ones);
  auto file = GgufFile::from_bytes("m.gguf", w.bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensor("b")->data - (*file)->tensor("a")->data, 64);
  EXPECT_THAT(error_of(GgufWriter().add_u32("general.alignment", 48).bytes()),
              HasSubstr("48; want a power of two"));
  EXPECT_THAT(error_of(GgufWriter().add_u32("general.alignment", 0).bytes()),
              HasSubstr("0; want a power of two"));
  EXPECT_THAT(error_of(GgufWriter().add_i32("general.alignment", -8).bytes()), HasSubstr("-8; want"));
  EXPECT_THAT(error_of(GgufWriter().add("general.alignment", "32").bytes()), HasSubstr("want an integer"));
}

// Reads all that an accepted file offers: a wrong bound shows under the address sanitizer.
uint64_t touch(const GgufFile& file) {
  uint64_t sum = 0;
  for (const auto& t : file.tensors()) {
    for (size_t i = 0; i < t.bytes; ++i) sum += std::to_integer<uint64_t>(t.data[i]);
    for (const char c : t.name) sum += static_cast<unsigned char>(c);
  }
  if (const auto* tokens = file.array("tokens"))
    for (const auto s : tokens->strings) sum = std::accumulate(s.begin(), s.end(), sum);
  return sum;
}

TEST(GgufFile, EveryTruncationIsAnErrorOrReadable) {
  const std::string whole = sample().bytes();
  size_t accepted = 0;
  for (size_t n = 0; n < whole.size(); ++n) {
    auto file = GgufFile::from_bytes("m.gguf", whole.substr(0, n));
    if (file.ok()) accepted += 1 + (touch(**file) & 0);
  }
  EXPECT_EQ(accepted, 0u) << "the last tensor ends with the file: nothing shorter is complete";
}

TEST(GgufFile, MutationsNeverCrash) {
  const uint64_t seed = support::seed_or(7);
  SCOPED_TRACE(::testing::Message() << "BATON_SEED=" << seed);
  const std::string whole = sample().bytes();
  uint64_t sum = 0;
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {  // every single bit
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    auto file = GgufFile::from_bytes("m.gguf", std::move(bytes));
    if (file.ok()) sum += touch(**file);
  }
  Rng rng(seed);
  for (int round = 0; round < 20'000; ++round) {  // several bytes at once, and extreme 8-byte values
    std::string bytes = whole;
    for (uint64_t k = rng.below(4) + 1; k > 0; --k) {
      const uint64_t extreme[] = {0, ~uint64_t{0}, 1ull << 63, 1ull << 32, rng.next()};
      const size_t width = rng.below(2) == 0 ? 1 : 8;
      std::memcpy(bytes.data() + rng.below(bytes.size() - 8), &extreme[rng.below(5)], width);
    }
    auto file = GgufFile::from_bytes("m.gguf", std::move(bytes));
    if (file.ok()) sum += touch(**file);
  }
  EXPECT_GT(sum, 0u) << "no mutation was accepted: touch() was never run";
}

TEST(GgufFile, ReadsTheSharedModel) {
  const char* shared = std::getenv("BATON_SHARED");
  const char* source = std::getenv("BATON_SOURCE_DIR");
  const std::string root =
      shared != nullptr ? shared : std::string(source != nullptr ? source : ".") + "/../shared";
  const std::string path = root + "/models/stories260K-f32.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared models at " << root << " (BATON_SHARED)";
  auto file = GgufFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->integer("llama.block_count"), 5);
  const auto* embedding = (*file)->tensor("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_THAT(embedding->dims, ElementsAre(64, 512));
}

}  // namespace
}  // namespace baton
