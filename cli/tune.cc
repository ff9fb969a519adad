// baton tune: the algorithms for `numerics: invariant` (kernels/cuda/tuner.h), chosen on this machine's GPU
// for a model, as a file that a manifest names.
#include "cli/tune.h"

#include <cstdio>

#include "base/cat.h"
#include "cli/cluster/exit_codes.h"
#include "cli/cluster/home.h"
#include "kernels/cuda_library.h"
#include "kernels/self_check.h"
#include "worker/model/model_file.h"
#include "worker/model/model_linears.h"
#include "worker/model/output_shard.h"

namespace baton::cli {
namespace {

int complain(const absl::Status& status) {
  std::fprintf(stderr, "baton tune: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailed;
}

// Of every rank, and of what a worker checks before it serves.
absl::StatusOr<std::vector<kernels::LinearSpec>> linears_of(const worker::ModelFile& file, int tensor) {
  std::vector<kernels::LinearSpec> out = kernels::self_check_linears(file.spec().head_dim);
  for (int rank = 0; rank < tensor; ++rank) {
    ASSIGN_OR_RETURN(const worker::ModelShard shard,
                     worker::shard_by_outputs(file.spec(), file.weights(), {.tensor = tensor}, rank));
    for (kernels::LinearSpec& linear : worker::model_linears(shard)) out.push_back(std::move(linear));
  }
  return out;
}

absl::Status tune(const TuneOptions& options) {
  ASSIGN_OR_RETURN(
      const std::string source,
      resolve_model(Home::from_environment(), options.model.empty() ? "default" : options.model));
  ASSIGN_OR_RETURN(const auto file, worker::ModelFile::open(source));
  kernels::TuneRequest request = {
      .device = options.device, .most_rows = options.rows, .said = [](std::string_view l) {
        std::printf("%.*s\n", static_cast<int>(l.size()), l.data());
        std::fflush(stdout);
      }};
  ASSIGN_OR_RETURN(request.linears, linears_of(*file, options.tensor));
  ASSIGN_OR_RETURN(const std::string table, kernels::tune_cuda(request));
  return write_file(options.file, table);
}

}  // namespace

int run_tune(const TuneOptions& options) {
  if (const absl::Status status = tune(options); !status.ok()) return complain(status);
  std::printf("%s: for pools with numerics: invariant and algorithms: %s\n", options.file.c_str(),
              options.file.c_str());
  return kExitOk;
}

}  // namespace baton::cli
