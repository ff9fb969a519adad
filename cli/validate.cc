// baton validate: what a manifest says, and whether the model can be split the way it asks for.
#include <cstdio>

#include "base/cat.h"
#include "cli/commands.h"
#include "cli/home.h"
#include "cli/manifest.h"
#include "worker/model/model_file.h"
#include "worker/model/model_shard.h"

namespace baton::cli {
namespace {

// Every pool's shape against the model, when there is one with several ranks.
absl::Status check_shapes(const ClusterManifest& manifest) {
  if (manifest.processes() == manifest.workers()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string source, resolve_model(Home::from_environment(), manifest.model_source));
  ASSIGN_OR_RETURN(const auto file, worker::ModelFile::open(source));
  for (const PoolManifest& pool : manifest.pools) {
    const worker::ParallelShape shape{.tensor = pool.tensor, .pipeline = pool.pipeline};
    const auto shard = worker::shard_of(file->spec(), file->weights(), shape, 0);
    if (!shard.ok())
      return absl::Status(shard.status().code(), cat("spec.pools.", pool.name,
                                                     ".parallel: ", std::string(shard.status().message())));
  }
  return absl::OkStatus();
}

std::string counted(int n, const char* what) { return cat(n, " ", what, n == 1 ? "" : "s"); }

}  // namespace

int run_validate(const std::string& file) {
  const auto manifest = read_manifest(file);
  const absl::Status status = manifest.ok() ? check_shapes(*manifest) : manifest.status();
  if (!status.ok()) {
    std::fprintf(stderr, "%s%s\n", manifest.ok() ? cat(file, ": ").c_str() : "",
                 std::string(status.message()).c_str());
    return absl::IsNotFound(status) ? kExitFailed : kExitUsage;
  }
  const bool groups = manifest->processes() > manifest->workers();
  std::printf("%s: good: %s%s\n", file.c_str(), counted(manifest->workers(), "worker").c_str(),
              groups ? cat(" of ", counted(manifest->processes(), "rank"), " in all").c_str() : "");
  return kExitOk;
}

}  // namespace baton::cli
