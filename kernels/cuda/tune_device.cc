#include "kernels/cuda/tune_device.h"

#include <set>

#include "base/cat.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/library_linear.h"
#include "kernels/cuda/tuner.h"

namespace baton::kernels::cuda {

absl::StatusOr<std::string> tune_device(const TuneRequest& request) {
  ASSIGN_OR_RETURN(const DeviceName name, DeviceName::parse(request.device));
  ASSIGN_OR_RETURN(const DeviceProperties device, open_device(name));
  ASSIGN_OR_RETURN(const auto stream, CudaStream::make(device.index));
  ASSIGN_OR_RETURN(const auto library, open_product_library());
  AlgorithmTable table;
  table.tuned_on = describe_device(device, *library);
  std::set<ProductShape> shapes;
  for (const LinearSpec& linear : request.linears)
    for (const ProductShape& shape : products_of(linear)) shapes.insert(shape);
  request.said(
      cat(table.tuned_on.text(), ": ", shapes.size(), " products, 1 to ", request.most_rows, " rows"));
  const TuneJob job = {
      .products = {shapes.begin(), shapes.end()}, .most_rows = request.most_rows, .rounds = request.rounds};
  ASSIGN_OR_RETURN(table.products,
                   tune(*library, job, static_cast<cudaStream_t>(stream->handle()), request.said));
  return table_text(table);
}

}  // namespace baton::kernels::cuda
