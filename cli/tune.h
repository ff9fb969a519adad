#pragma once

#include <string>

namespace baton::cli {

// baton tune: a table of algorithms for `numerics: invariant` (docs/adr/0019). Returns the exit code. Thread:
// main.
struct TuneOptions {
  std::string model;            // GGUF file or Hugging Face directory; empty: the cached one
  std::string file;             // where the table goes
  std::string device = "cuda";  // kernels/cuda/device_name.h
  int rows = 8192;              // of the largest step (batch.tokens)
  int tensor = 1;               // ranks that share each layer
};
int run_tune(const TuneOptions& options);

}  // namespace baton::cli
