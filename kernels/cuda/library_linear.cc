#include "kernels/cuda/library_linear.h"

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "base/cat.h"

namespace baton::kernels::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32}
                                   << 20;  // fixed: a choice must not depend on what happens to be free

absl::Status library_status(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(cat("cuBLASLt: ", what, ": status ", static_cast<int>(status)));
}

class CublasLinear final : public LibraryLinear {
 public:
  ~CublasLinear() override;
  absl::Status open();
  absl::Status multiply(const CudaLinear& linear, const Product& product, cudaStream_t stream) override;

 private:
  // Output rows, columns, distances of rows (weights, x, out), rows of x.
  using Shape = std::tuple<int, int, int, int64_t, int64_t, int>;
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t weights = nullptr, x = nullptr, out = nullptr;
    cublasLtMatmulAlgo_t algorithm;
  };
  absl::StatusOr<const Plan*> plan(const Shape& shape);
  absl::Status describe(const Shape& shape, Plan& plan);

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Shape, Plan> plans_;
};

CublasLinear::~CublasLinear() {
  for (auto& [shape, plan] : plans_) {
    cublasLtMatmulDescDestroy(plan.operation);
    for (cublasLtMatrixLayout_t layout : {plan.weights, plan.x, plan.out})
      cublasLtMatrixLayoutDestroy(layout);
  }
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

absl::Status CublasLinear::open() {
  RETURN_IF_ERROR(library_status(cublasLtCreate(&handle_), "opening"));
  ASSIGN_OR_RETURN(workspace_,
                   DeviceBuffer::make(DeviceBuffer::Kind::kDevice, kWorkspaceBytes, "cuBLASLt's workspace"));
  return absl::OkStatus();
}

// The library thinks in columns: our y[rows][n] is its matrix of n x rows, W[n][k] its k x n, to be
// transposed.
absl::Status CublasLinear::describe(const Shape& shape, Plan& plan) {
  const auto [n, k, ldw, ldx, ldo, rows] = shape;
  RETURN_IF_ERROR(
      library_status(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation"));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  RETURN_IF_ERROR(library_status(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                                &transposed, sizeof transposed),
                                 "transposition"));
  RETURN_IF_ERROR(
      library_status(cublasLtMatrixLayoutCreate(&plan.weights, CUDA_R_16BF, k, n, ldw), "weights"));
  RETURN_IF_ERROR(
      library_status(cublasLtMatrixLayoutCreate(&plan.x, CUDA_R_16BF, k, rows, ldx), "activations"));
  return library_status(cublasLtMatrixLayoutCreate(&plan.out, CUDA_R_32F, n, rows, ldo), "result");
}

absl::StatusOr<const CublasLinear::Plan*> CublasLinear::plan(const Shape& shape) {
  if (const auto found = plans_.find(shape); found != plans_.end()) return &found->second;
  Plan& plan = plans_[shape];
  RETURN_IF_ERROR(describe(shape, plan));
  cublasLtMatmulPreference_t preference = nullptr;
  RETURN_IF_ERROR(library_status(cublasLtMatmulPreferenceCreate(&preference), "preference"));
  const uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split,
                                       sizeof no_split);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                       sizeof kWorkspaceBytes);
  cublasLtMatmulHeuristicResult_t result;
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, plan.operation, plan.weights, plan.x, plan.out, plan.out, preference, 1, &result, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  RETURN_IF_ERROR(library_status(count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status,
                                 cat("no algorithm for ", std::get<0>(shape), " x ", std::get<1>(shape))));
  plan.algorithm = result.algo;
  return &plan;
}

absl::Status CublasLinear::multiply(const CudaLinear& linear, const Product& p, cudaStream_t stream) {
  const PackedShape& s = linear.shape;
  const int n = s.interleaved ? s.strips * 16 : s.rows;
  ASSIGN_OR_RETURN(const Plan* plan, this->plan({n, s.cols, s.ld, p.ldx, p.ldo, p.rows}));
  const float one = 1, beta = p.add ? 1 : 0;
  return library_status(cublasLtMatmul(handle_, plan->operation, &one, linear.weights->data(), plan->weights,
                                       p.x, plan->x, &beta, p.out, plan->out, p.out, plan->out,
                                       &plan->algorithm, workspace_.data(), workspace_.bytes(), stream),
                        "product");
}

}  // namespace

absl::StatusOr<std::unique_ptr<LibraryLinear>> open_library_linear() {
  auto library = std::make_unique<CublasLinear>();
  RETURN_IF_ERROR(library->open());
  return library;
}

}  // namespace baton::kernels::cuda
