// Writes a model with random weights in the shape of one that people run, to measure speed with.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/cat.h"
#include "base/units.h"
#include "tests/support/model_writer.h"

namespace {

using namespace baton::testing;
using baton::DType;

struct Arguments {
  std::string shape = "smollm2-135m", type = "q4_0", head_type, path;
  int layers = 0;
  int64_t context = 0;
  uint64_t seed = 1;
};

// As converters choose: 4 and 5 bits get a finer table and head, everything else its own type.
DType head_for(DType type, int64_t cols) {
  const bool few_bits =
      type != DType::kF32 && type != DType::kF16 && type != DType::kBF16 && type != DType::kQ8_0;
  if (!few_bits) return type;
  return cols % 256 == 0 ? DType::kQ6_K : DType::kQ8_0;
}

absl::StatusOr<RandomModelOptions> options_of(const Arguments& a) {
  auto options = model_shape(a.shape);
  if (!options)
    return absl::InvalidArgumentError(
        baton::cat("--shape ", a.shape, ": want one of ", baton::join(model_shape_names(), ", ")));
  const auto type = dtype_named(a.type);
  const auto head = a.head_type.empty() && type ? head_for(*type, options->hidden) : dtype_named(a.head_type);
  if (!type || !head)
    return absl::InvalidArgumentError(baton::cat("no such type: ", type ? a.head_type : a.type));
  for (const DType t : {*type, *head})
    for (const int64_t cols : {options->hidden, options->ffn, int64_t{options->heads} * options->head_dim})
      if (const int block = baton::traits_of(t).elements; cols % block != 0)
        return absl::InvalidArgumentError(baton::cat(a.shape, " has rows of ", cols,
                                                     " elements: no whole blocks of ", block, " as ",
                                                     baton::traits_of(t).name, " has"));
  options->matrix = *type;
  options->embedding = *head;
  options->seed = a.seed;
  if (a.layers > 0) options->layers = a.layers;
  if (a.context > 0) options->context = a.context;
  return *options;
}

int fail(const absl::Status& status) {
  std::fprintf(stderr, "write_model: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes a GGUF file of a known shape with random weights.", "write_model");
  Arguments a;
  app.add_option("--shape", a.shape, baton::join(model_shape_names(), ", "))->capture_default_str();
  app.add_option("--type", a.type, "of the layers: f32 f16 bf16 q8_0 q4_0 q4_1 q2_k q4_k q5_k q6_k iq2_xxs")
      ->capture_default_str();
  app.add_option("--head-type", a.head_type, "of table and head; default: what converters choose");
  app.add_option("--layers", a.layers, "another number of layers")->check(CLI::Range(1, 1000));
  app.add_option("--context", a.context, "another context")->check(CLI::Range(1, 10'000'000));
  app.add_option("--seed", a.seed);
  app.add_option("FILE", a.path)->required();
  CLI11_PARSE(app, argc, argv);
  const auto options = options_of(a);
  if (!options.ok()) return fail(options.status());
  const int threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  if (const absl::Status s = write_random_model(*options, a.path, threads); !s.ok()) return fail(s);
  std::printf("%s: %s, %s, head %s, %s\n", a.path.c_str(), a.shape.c_str(),
              std::string(baton::traits_of(options->matrix).name).c_str(),
              std::string(baton::traits_of(options->embedding).name).c_str(),
              baton::format_bytes(std::filesystem::file_size(a.path)).c_str());
}
