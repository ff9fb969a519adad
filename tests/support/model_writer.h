#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tests/support/random_model.h"

namespace baton::testing {

// The shapes of models that people run, by name: smollm2-135m, llama-3.2-1b, tinyllama-1.1b, qwen3-0.6b.
// nullopt for any other name.
std::optional<RandomModelOptions> model_shape(std::string_view name);
std::vector<std::string> model_shape_names();

// The element type that a name like "q4_0" means; nullopt for any other name.
std::optional<DType> dtype_named(std::string_view name);

// Writes a GGUF file of any size with random weights, blocks filled in place by a counter-based generator:
// a billion parameters take seconds. Codes are uniform, scales such that a matrix keeps the size of what goes
// through it; no value is infinite. The bytes depend on the options only, not on the number of threads. For
// measuring speed; tests that compare with float arithmetic take RandomModel. Thread: starts `threads` of its
// own. Errors: the file cannot be written.
absl::Status write_random_model(const RandomModelOptions& options, const std::string& path, int threads);

}  // namespace baton::testing
