// baton validate: what a manifest says, whether the model can be split the way it asks for, and the
// certificates of this machine.
#include <cstdio>

#include "base/cat.h"
#include "cli/cluster/home.h"
#include "cli/cluster/manifest.h"
#include "cli/cluster/process.h"
#include "cli/commands.h"
#include "cli/control_security.h"
#include "cli/gateway_security.h"
#include "kernels/cuda/device_name.h"
#include "worker/model/model_file.h"
#include "worker/model/output_shard.h"

namespace baton::cli {
namespace {

bool has_groups(const ClusterManifest& manifest) { return manifest.processes() > manifest.workers(); }

absl::Status before(const std::string& place, const absl::Status& status) {
  return {status.code(), cat(place, ": ", std::string(status.message()))};
}

// One pool's shape. The layers of its stages are looked at apart: their mistakes have a place in the file.
absl::Status check_shape(const worker::ModelFile& file, const PoolManifest& pool, const std::string& name) {
  worker::ParallelShape shape{.tensor = pool.tensor, .pipeline = pool.pipeline};
  // As DeviceBackend::splits_inputs() of the device will say.
  const bool outputs = kernels::cuda::DeviceName::is_cuda(pool.device) && pool.numerics != "fastest";
  const auto shard = outputs ? worker::shard_by_outputs(file.spec(), file.weights(), shape, 0)
                             : worker::shard_of(file.spec(), file.weights(), shape, 0);
  if (!shard.ok()) return before(cat(name, ": spec.pools.", pool.name, ".parallel"), shard.status());
  shape.stage_layers = pool.stage_layers;
  const std::string why =
      worker::stage_layers_refusal(worker::split_model(file.spec(), file.weights()), shape);
  return why.empty() ? absl::OkStatus() : absl::InvalidArgumentError(cat(pool.stage_layers_place, ": ", why));
}

// Every pool's shape against the model, when there is one with several ranks, and contextTokens. A model that
// is not on this machine is noted, no mistake. `name`: of the manifest's file.
absl::Status check_shapes(const ClusterManifest& manifest, const std::string& name, std::string& notes) {
  const auto source = resolve_model(Home::from_environment(), manifest.model_source);
  if (!source.ok())
    notes += cat("; the model is not here (wanted where a process runs",
                 has_groups(manifest) ? "; whether `parallel` fits it was not looked at" : "",
                 "): ", manifest.model_source);
  if (!source.ok() || (!has_groups(manifest) && manifest.context_tokens == 0)) return absl::OkStatus();
  const auto file = worker::ModelFile::open(*source);
  if (!file.ok()) return before(name, file.status());
  if (const std::string notice = manifest.context_notice((*file)->spec().context_tokens); !notice.empty())
    notes += cat("; ", notice);
  if (!has_groups(manifest)) return absl::OkStatus();
  for (const PoolManifest& pool : manifest.pools) RETURN_IF_ERROR(check_shape(**file, pool, name));
  return absl::OkStatus();
}

// The certificates that are on this machine: one that runs workers only has no coordinator's, and where a
// file is written there may be none. `notes` tells which were not looked at; who needs them refuses to start.
absl::Status check_certificates(const ControlManifest& control, std::string& notes) {
  if (!control.tls) return absl::OkStatus();
  const int64_t now = unix_time_source()();
  std::vector<std::string> mistakes;
  for (const ControlSide side : {ControlSide::kCoordinator, ControlSide::kWorker}) {
    if (!has_files(control, side)) {
      notes += cat("; no certificate of the ", side_name(side),
                   " here (wanted where one runs): ", certificate_path(control, side));
      continue;
    }
    if (const absl::Status s = check_files(control, side, now); !s.ok()) mistakes.emplace_back(s.message());
  }
  return mistakes.empty() ? absl::OkStatus() : absl::InvalidArgumentError(join(mistakes, "\n"));
}

int complain(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return kExitUsage;
}

std::string counted(int n, const char* what) { return cat(n, " ", what, n == 1 ? "" : "s"); }

}  // namespace

int run_validate(const std::string& file) {
  const auto manifest = read_manifest(file);
  if (!manifest.ok()) return complain(manifest.status());
  std::string notes;
  if (const absl::Status s = check_shapes(*manifest, file, notes); !s.ok()) return complain(s);
  if (const absl::Status s = check_certificates(manifest->control, notes); !s.ok()) return complain(s);
  std::vector<std::string> absent;
  if (const absl::Status s = check_gateway_files(manifest->gateway, unix_time_source()(), &absent); !s.ok())
    return complain(s);
  for (const std::string& path : absent)
    notes += cat("; not here (wanted where the coordinator runs): ", path);
  std::printf(
      "%s: good: %s%s%s\n", file.c_str(), counted(manifest->workers(), "worker").c_str(),
      has_groups(*manifest) ? cat(" of ", counted(manifest->processes(), "rank"), " in all").c_str() : "",
      notes.c_str());
  return kExitOk;
}

}  // namespace baton::cli
