#include "tests/support/model_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/cat.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "tests/support/gguf_writer.h"

namespace baton::testing {
namespace {

constexpr size_t kPieceBlocks = size_t{1} << 15;  // blocks of a format written at once
constexpr uint64_t kAlignment = 32;

// splitmix64 of a counter.
uint64_t random_word(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + counter * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Where the float16 scales of a block stand and what they are when a weight shall have a deviation of 1: the
// codes are uniform, and so are the inner scales of the K formats.
struct BlockLayout {
  DType type;
  int scale, minimum;  // byte offsets, minimum -1 when there is none
  double unit, minimum_per_scale;
};
constexpr BlockLayout kLayouts[] = {
    {DType::kQ8_0, 0, -1, 74, 0},     {DType::kQ4_0, 0, -1, 4.6, 0},   {DType::kQ4_1, 0, 2, 4.6, -7.5},
    {DType::kQ2_K, 80, 82, 12, 1.5},  {DType::kQ4_K, 0, 2, 190, 7.5},  {DType::kQ5_K, 0, 2, 380, 15.5},
    {DType::kQ6_K, 208, -1, 1370, 0}, {DType::kIQ2_XXS, 0, -1, 60, 0},
};

// Random bits become floats of one of four exponents below `spread`: no infinities, no denormals.
template <class Bits>
void shape_floats(std::span<std::byte> bytes, int mantissa_bits, int bias, double spread) {
  const Bits sign = Bits{1} << (8 * sizeof(Bits) - 1), mantissa = (Bits{1} << mantissa_bits) - 1;
  const Bits largest = static_cast<Bits>(std::ilogb(spread * 2) + bias);
  for (size_t at = 0; at < bytes.size(); at += sizeof(Bits)) {
    Bits v;
    std::memcpy(&v, bytes.data() + at, sizeof v);
    const Bits exponent = largest - static_cast<Bits>((v >> mantissa_bits) & 3);
    v = static_cast<Bits>((v & (sign | mantissa)) | static_cast<Bits>(exponent << mantissa_bits));
    std::memcpy(bytes.data() + at, &v, sizeof v);
  }
}

void shape_blocks(std::span<std::byte> bytes, const RandomTensor& tensor) {
  const auto& layout = *std::ranges::find(kLayouts, tensor.type, &BlockLayout::type);
  const int size = traits_of(tensor.type).bytes;
  uint16_t scales[16], minima[16];  // from 3/4 to 5/4 of the right one
  for (int i = 0; i < 16; ++i) {
    const double scale = tensor.spread / layout.unit * (0.75 + i / 30.0);
    scales[i] = kernels::float_to_half(static_cast<float>(scale));
    minima[i] = kernels::float_to_half(static_cast<float>(scale * layout.minimum_per_scale));
  }
  for (size_t at = 0; at < bytes.size(); at += size) {
    std::byte* block = bytes.data() + at;
    const int pick = static_cast<int>(block[layout.scale]) & 15;
    std::memcpy(block + layout.scale, &scales[pick], 2);
    if (layout.minimum >= 0) std::memcpy(block + layout.minimum, &minima[pick], 2);
  }
}

void fill_matrix(const RandomTensor& tensor, uint64_t seed, uint64_t first_word, std::span<std::byte> bytes) {
  for (size_t at = 0; at < bytes.size(); at += 8) {
    const uint64_t word = random_word(seed, first_word + at / 8);
    std::memcpy(bytes.data() + at, &word, std::min<size_t>(8, bytes.size() - at));
  }
  if (tensor.type == DType::kF32) return shape_floats<uint32_t>(bytes, 23, 127, tensor.spread);
  if (tensor.type == DType::kBF16) return shape_floats<uint16_t>(bytes, 7, 127, tensor.spread);
  if (tensor.type == DType::kF16) return shape_floats<uint16_t>(bytes, 10, 15, tensor.spread);
  shape_blocks(bytes, tensor);
}

void fill_vector(const RandomTensor& tensor, uint64_t seed, std::span<std::byte> bytes) {
  for (size_t i = 0; i < bytes.size() / 4; ++i) {
    const double uniform = static_cast<double>(random_word(seed, i) >> 11) * 0x1.0p-53;
    const float v = tensor.centre + static_cast<float>((2 * uniform - 1) * tensor.spread);
    std::memcpy(bytes.data() + 4 * i, &v, 4);
  }
}

struct Piece {
  const RandomTensor* tensor;
  uint64_t seed;
  uint64_t in_tensor;  // byte offset; a multiple of 8
  uint64_t in_file;
  size_t bytes;
};

absl::Status write_at(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n <= 0) return absl::UnavailableError(cat("write: ", std::strerror(errno)));
    bytes = bytes.subspan(n);
    offset += n;
  }
  return absl::OkStatus();
}

absl::Status write_pieces(int fd, const std::vector<Piece>& pieces, int threads) {
  std::atomic<size_t> next{0};
  std::vector<absl::Status> status(threads);
  const auto work = [&](int thread) {
    std::vector<std::byte> buffer;
    for (size_t i; (i = next.fetch_add(1)) < pieces.size() && status[thread].ok();) {
      const Piece& piece = pieces[i];
      buffer.resize(piece.bytes);
      if (piece.tensor->rows == 0) {
        fill_vector(*piece.tensor, piece.seed, buffer);
      } else {
        fill_matrix(*piece.tensor, piece.seed, piece.in_tensor / 8, buffer);
      }
      status[thread] = write_at(fd, buffer, piece.in_file);
    }
  };
  std::vector<std::jthread> workers;
  for (int t = 1; t < threads; ++t) workers.emplace_back(work, t);
  work(0);
  workers.clear();
  for (const absl::Status& s : status) RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

uint64_t aligned(uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t bytes_of(const RandomTensor& t) {
  return *kernels::row_bytes(t.type, t.cols) * static_cast<uint64_t>(std::max<int64_t>(1, t.rows));
}

absl::Status write_file(int fd, const RandomModelOptions& options, int threads) {
  const std::vector<RandomTensor> tensors = random_tensors(options);
  GgufWriter writer;
  describe_model(options, writer);
  std::vector<Piece> pieces;
  uint64_t offset = 0;
  for (const RandomTensor& t : tensors) {
    std::vector<uint64_t> dims = {static_cast<uint64_t>(t.cols)};
    if (t.rows > 0) dims.push_back(static_cast<uint64_t>(t.rows));
    writer.add_tensor_entry(t.name, dims, static_cast<uint32_t>(t.type), offset);
    const uint64_t bytes = bytes_of(t), step = kPieceBlocks * traits_of(t.type).bytes;
    for (uint64_t at = 0; at < bytes; at += step)
      pieces.push_back({&t, tensor_seed(options.seed, t.name), at, offset + at, std::min(step, bytes - at)});
    offset = aligned(offset + bytes);
  }
  std::string head = writer.bytes();
  head.resize(aligned(head.size()));
  for (Piece& piece : pieces) piece.in_file += head.size();
  if (::ftruncate(fd, static_cast<off_t>(head.size() + offset)) != 0)
    return absl::UnavailableError(cat("ftruncate: ", std::strerror(errno)));
  RETURN_IF_ERROR(write_at(fd, std::as_bytes(std::span(head)), 0));
  return write_pieces(fd, pieces, threads);
}

struct NamedShape {
  std::string_view name;
  RandomModelOptions options;
};

const std::vector<NamedShape>& shapes() {
  static const std::vector<NamedShape> kShapes = {
      {"smollm2-135m",
       {.vocab = 49152,
        .hidden = 576,
        .ffn = 1536,
        .layers = 30,
        .heads = 9,
        .kv_heads = 3,
        .head_dim = 64,
        .context = 8192,
        .rope_base = 1e5,
        .tied = true}},
      {"llama-3.2-1b",
       {.vocab = 128256,
        .hidden = 2048,
        .ffn = 8192,
        .layers = 16,
        .heads = 32,
        .kv_heads = 8,
        .head_dim = 64,
        .context = 131072,
        .rope_base = 5e5,
        .tied = true}},
      {"tinyllama-1.1b",
       {.vocab = 32000,
        .hidden = 2048,
        .ffn = 5632,
        .layers = 22,
        .heads = 32,
        .kv_heads = 4,
        .head_dim = 64,
        .context = 2048}},
      {"qwen3-0.6b",
       {.architecture = "qwen3",
        .vocab = 151936,
        .hidden = 1024,
        .ffn = 3072,
        .layers = 28,
        .heads = 16,
        .kv_heads = 8,
        .head_dim = 128,
        .context = 40960,
        .norm_eps = 1e-6,
        .rope_base = 1e6,
        .tied = true}},
  };
  return kShapes;
}

}  // namespace

std::optional<RandomModelOptions> model_shape(std::string_view name) {
  const auto found = std::ranges::find(shapes(), name, &NamedShape::name);
  return found == shapes().end() ? std::nullopt : std::optional(found->options);
}

std::vector<std::string> model_shape_names() {
  std::vector<std::string> out;
  for (const NamedShape& shape : shapes()) out.emplace_back(shape.name);
  return out;
}

std::optional<DType> dtype_named(std::string_view name) {
  std::string upper(name);
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  for (uint32_t number = 0; number < 256; ++number)
    if (const auto traits = dtype_traits(number); traits && traits->name == upper) return traits->type;
  return std::nullopt;
}

absl::Status write_random_model(const RandomModelOptions& options, const std::string& path, int threads) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return absl::UnavailableError(cat(path, ": ", std::strerror(errno)));
  absl::Status status = write_file(fd, options, threads);
  if (::close(fd) != 0 && status.ok()) status = absl::UnavailableError(cat(path, ": ", std::strerror(errno)));
  return status;
}

}  // namespace baton::testing
