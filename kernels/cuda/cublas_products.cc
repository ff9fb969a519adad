#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/cat.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/product_library.h"

namespace baton::kernels::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32}
                                   << 20;  // fixed: a choice must not depend on what happens to be free

static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));

absl::Status library_status(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(cat("cuBLASLt: ", what, ": status ", static_cast<int>(status)));
}

cublasLtMatmulAlgo_t opaque(const Algorithm& algorithm) {
  cublasLtMatmulAlgo_t out;
  std::memcpy(&out, algorithm.words.data(), sizeof out);
  return out;
}

// The library's description of a product with so many rows.
struct Description {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, x = nullptr, out = nullptr;
  Algorithm checked;  // that runs with it
  bool any_checked = false;

  Description() = default;
  Description(Description&&) = delete;
  ~Description() {
    for (cublasLtMatrixLayout_t layout : {weights, x, out})
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }
  absl::Status make(const ProductShape& shape, int rows);
};

// The library thinks in columns: our y[rows][n] is its matrix of n x rows, W[n][k] its k x n, to be
// transposed.
absl::Status Description::make(const ProductShape& s, int rows) {
  RETURN_IF_ERROR(
      library_status(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation"));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  RETURN_IF_ERROR(library_status(
      cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
      "transposition"));
  RETURN_IF_ERROR(
      library_status(cublasLtMatrixLayoutCreate(&weights, CUDA_R_16BF, s.k, s.n, s.ldw), "weights"));
  RETURN_IF_ERROR(
      library_status(cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, s.k, rows, s.ldx), "activations"));
  return library_status(cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, s.n, rows, s.ldo), "result");
}

class CublasProducts final : public ProductLibrary {
 public:
  ~CublasProducts() override {
    described_.clear();
    if (handle_ != nullptr) cublasLtDestroy(handle_);
  }
  absl::Status open();
  Versions versions() const override {
    int driver = 0;
    cudaDriverGetVersion(&driver);  // 0 when it does not say
    return {static_cast<int64_t>(cublasLtGetVersion()), driver};
  }
  absl::StatusOr<std::vector<Algorithm>> propose(const ProductShape& shape, int rows, int most) override;
  absl::Status multiply(const ProductShape& shape, const Algorithm& algorithm, const Operands& operands,
                        cudaStream_t stream) override;

 private:
  absl::StatusOr<Description*> describe(const ProductShape& shape, int rows);
  absl::Status check(const ProductShape& shape, const Algorithm& algorithm, int rows, Description& d);

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<std::pair<ProductShape, int>, Description> described_;
};

absl::Status CublasProducts::open() {
  RETURN_IF_ERROR(library_status(cublasLtCreate(&handle_), "opening"));
  ASSIGN_OR_RETURN(workspace_,
                   DeviceBuffer::make(DeviceBuffer::Kind::kDevice, kWorkspaceBytes, "cuBLASLt's workspace"));
  return absl::OkStatus();
}

absl::StatusOr<Description*> CublasProducts::describe(const ProductShape& shape, int rows) {
  const auto [at, is_new] = described_.try_emplace({shape, rows});
  if (!is_new) return &at->second;
  if (absl::Status status = at->second.make(shape, rows); !status.ok()) {
    described_.erase(at);
    return status;
  }
  return &at->second;
}

absl::StatusOr<std::vector<Algorithm>> CublasProducts::propose(const ProductShape& shape, int rows,
                                                               int most) {
  ASSIGN_OR_RETURN(Description* const d, describe(shape, rows));
  cublasLtMatmulPreference_t preference = nullptr;
  RETURN_IF_ERROR(library_status(cublasLtMatmulPreferenceCreate(&preference), "preference"));
  const uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split,
                                       sizeof no_split);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                       sizeof kWorkspaceBytes);
  std::vector<cublasLtMatmulHeuristicResult_t> results(most);
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, d->operation, d->weights, d->x, d->out, d->out, preference, most, results.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  RETURN_IF_ERROR(library_status(count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status,
                                 cat("no algorithm for ", shape.text(), ", ", rows, " rows")));
  std::vector<Algorithm> out(count);
  for (int i = 0; i < count; ++i) std::memcpy(out[i].words.data(), &results[i].algo, sizeof(Algorithm));
  return out;
}

// Of an algorithm from a file, or from other rows: whether it runs with these, in our workspace.
absl::Status CublasProducts::check(const ProductShape& shape, const Algorithm& algorithm, int rows,
                                   Description& d) {
  if (d.any_checked && d.checked == algorithm) return absl::OkStatus();
  const cublasLtMatmulAlgo_t algo = opaque(algorithm);
  cublasLtMatmulHeuristicResult_t result;
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle_, d.operation, d.weights, d.x, d.out, d.out, &algo, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kWorkspaceBytes)
    return absl::UnimplementedError(cat("cuBLASLt: an algorithm is not for ", shape.text(), ", ", rows,
                                        " rows: status ", static_cast<int>(status)));
  d.checked = algorithm, d.any_checked = true;
  return absl::OkStatus();
}

absl::Status CublasProducts::multiply(const ProductShape& shape, const Algorithm& algorithm,
                                      const Operands& p, cudaStream_t stream) {
  ASSIGN_OR_RETURN(Description* const d, describe(shape, p.rows));
  RETURN_IF_ERROR(check(shape, algorithm, p.rows, *d));
  const cublasLtMatmulAlgo_t algo = opaque(algorithm);
  const float one = 1, beta = shape.add ? 1 : 0;
  return library_status(
      cublasLtMatmul(handle_, d->operation, &one, p.weights, d->weights, p.x, d->x, &beta, p.out, d->out,
                     p.out, d->out, &algo, workspace_.data(), workspace_.bytes(), stream),
      "product");
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProductLibrary>> open_product_library() {
  auto library = std::make_unique<CublasProducts>();
  RETURN_IF_ERROR(library->open());
  return library;
}

}  // namespace baton::kernels::cuda
