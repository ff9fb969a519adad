#include "kernels/cpu/cpu_backend.h"

// The operations of a rank that holds a part of each layer. Rows are dealt out to the threads.
namespace baton::kernels::cpu {

void CpuBackend::linear_part(const Linear& linear, const float* x, float* out) {
  const auto& l = static_cast<const CpuLinear&>(linear);
  multiply({.x = x, .rows = batch_.rows()}, l, {.out = out, .stride = l.rows()});
}

void CpuBackend::alone(absl::FunctionRef<void()> work) {
  if (shares_.by_rows()) pool_.run([](int) {});  // a thread may still be at its rows
  pool_.alone(work);
}

void CpuBackend::add_rows(const RowSum& sum) {
  pool_.run([&](int thread) {
    const Share rows = share_of(sum.rows, thread, pool_.size());
    RowSum part = sum;
    part.rows = rows.end - rows.begin;
    part.y += rows.begin * sum.width;
    part.residual += rows.begin * sum.width;
    add_rows_on_host(part);
  });
}

}  // namespace baton::kernels::cpu
