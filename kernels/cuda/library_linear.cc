#include "kernels/cuda/library_linear.h"

#include "base/cat.h"
#include "kernels/cuda/tuner.h"

namespace baton::kernels::cuda {

absl::StatusOr<std::unique_ptr<LibraryLinear>> LibraryLinear::open_fastest() {
  ASSIGN_OR_RETURN(auto library, open_product_library());
  return std::make_unique<LibraryLinear>(std::move(library), std::nullopt);
}

absl::StatusOr<std::unique_ptr<LibraryLinear>> LibraryLinear::open_invariant(const std::string& table,
                                                                             const DeviceProperties& device) {
  ASSIGN_OR_RETURN(AlgorithmTable algorithms, read_table(table));
  ASSIGN_OR_RETURN(auto library, open_product_library());
  const absl::Status fits = algorithms.check(describe_device(device, *library));
  if (!fits.ok()) return absl::Status(fits.code(), cat(table, ": ", std::string(fits.message())));
  return std::make_unique<LibraryLinear>(std::move(library), std::move(algorithms));
}

absl::Status LibraryLinear::add(const LinearSpec& spec, cudaStream_t stream) {
  if (!table_) return absl::OkStatus();
  for (const ProductShape& shape : products_of(spec)) {
    if (checked_.contains(shape)) continue;
    const TunedProduct* tuned = table_->find(shape);
    if (tuned == nullptr)
      return absl::FailedPreconditionError(
          cat("product ", shape.text(),
              " is not in the table of algorithms: it was made for another model or "
              "number of ranks; make it again (baton tune -m MODEL -o FILE), or set numerics: bf16dot"));
    RETURN_IF_ERROR(check_bits(*library_, *tuned, stream));
    checked_.insert(shape);
  }
  return absl::OkStatus();
}

absl::StatusOr<Algorithm> LibraryLinear::algorithm(const ProductShape& shape, int rows) {
  if (table_) {
    const TunedProduct* tuned = table_->find(shape);
    const Algorithm* found = tuned == nullptr ? nullptr : algorithm_for(*tuned, rows);
    if (found != nullptr) return *found;
    return absl::FailedPreconditionError(
        cat("the table of algorithms has none for ", shape.text(), ", ", rows, " rows: baton tune --rows"));
  }
  const auto known = chosen_.find({shape, rows});
  if (known != chosen_.end()) return known->second;
  ASSIGN_OR_RETURN(const std::vector<Algorithm> proposed, library_->propose(shape, rows, 1));
  return chosen_[{shape, rows}] = proposed.front();
}

absl::Status LibraryLinear::multiply(const CudaLinear& linear, const Product& p, cudaStream_t stream) {
  const PackedShape& s = linear.shape;
  const ProductShape shape = {.n = s.interleaved ? s.strips * 16 : s.rows,
                              .k = s.cols,
                              .ldw = s.ld,
                              .ldx = p.ldx,
                              .ldo = p.ldo,
                              .add = p.add};
  ASSIGN_OR_RETURN(const Algorithm chosen, algorithm(shape, p.rows));
  return library_->multiply(shape, chosen, {linear.weights->as<uint16_t>(), p.x, p.out, p.rows}, stream);
}

std::vector<ProductShape> products_of(const LinearSpec& spec) {
  if (!spec.bias.empty()) return {};  // by the kernels of this folder
  const PackedShape s = packed_shape(spec);
  const int n = s.interleaved ? s.strips * 16 : s.rows;
  const ProductShape normed = {.n = n, .k = s.cols, .ldw = s.ld, .ldx = s.ld, .ldo = n};
  if (spec.parts.size() > 1) return {normed};
  ProductShape stored = normed;
  stored.ldx = int64_t{2} * s.cols;
  ProductShape added = stored;
  added.add = true;
  if (spec.k_shards > 1) return {added, stored};
  return {normed, added, stored};
}

TunedOn describe_device(const DeviceProperties& device, const ProductLibrary& library) {
  const ProductLibrary::Versions versions = library.versions();
  return {.device = device.name,
          .capability = device.capability,
          .processors = device.processors,
          .library = versions.library,
          .driver = versions.driver};
}

}  // namespace baton::kernels::cuda
