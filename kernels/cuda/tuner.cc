#include "kernels/cuda/tuner.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "base/cat.h"
#include "kernels/cuda/product_trials.h"

namespace baton::kernels::cuda {
namespace {

// Rows with which a table's bits are looked at once more: more take more memory and tell nothing new.
constexpr int kMostCheckedRows = 300;

std::string two_digits(double value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.2f", value);
  return out;
}

// Of one product: its candidates, tried with every probed number of rows.
class ProductTuner {
 public:
  ProductTuner(ProductLibrary& library, const ProductShape& shape, const TuneJob& job)
      : library_(library), shape_(shape), job_(job), ranges_(row_ranges(job.most_rows)) {}

  absl::StatusOr<TunedProduct> tune(cudaStream_t stream, absl::FunctionRef<void(std::string_view)> said) {
    RETURN_IF_ERROR(collect());
    ASSIGN_OR_RETURN(const auto trials, ProductTrials::make(library_, shape_, job_.most_rows, stream));
    for (const RowRange& range : ranges_)
      for (const int rows : probed_rows(range)) RETURN_IF_ERROR(try_all(*trials, rows));
    const absl::StatusOr<BitClass> chosen = choose_bit_class(ranges_, trials_);
    if (!chosen.ok())
      return absl::Status(chosen.status().code(),
                          cat("product ", shape_.text(), ": ", std::string(chosen.status().message()),
                              "; numerics: bf16dot does without"));
    said(cat(shape_.text(), ": ", algorithms_.size(), " algorithms, the class takes ",
             two_digits(chosen->slowdown), " times the fastest, ", two_digits(chosen->worst), " at worst"));
    TunedProduct out{.shape = shape_, .signature = chosen->signature, .rows = {}};
    for (size_t r = 0; r < ranges_.size(); ++r) {
      const Algorithm& algorithm = algorithms_[chosen->algorithms[r]];
      if (!out.rows.empty() && out.rows.back().algorithm == algorithm) out.rows.pop_back();
      out.rows.push_back({ranges_[r].last, algorithm});
    }
    return out;
  }

 private:
  // In an order that does not depend on times.
  absl::Status collect() {
    std::set<Algorithm> all;
    for (const RowRange& range : ranges_)
      for (const int rows : probed_rows(range)) {
        ASSIGN_OR_RETURN(const std::vector<Algorithm> some, library_.propose(shape_, rows, job_.proposals));
        all.insert(some.begin(), some.end());
      }
    algorithms_.assign(all.begin(), all.end());
    return absl::OkStatus();
  }
  absl::Status try_all(ProductTrials& trials, int rows) {
    RETURN_IF_ERROR(trials.place_probes(rows));
    for (size_t i = 0; i < algorithms_.size(); ++i) {
      absl::StatusOr<Trial> trial = trials.measure(algorithms_[i], job_.rounds);
      if (absl::IsUnimplemented(trial.status())) continue;
      RETURN_IF_ERROR(trial.status());
      trial->algorithm = static_cast<int>(i);
      trials_.push_back(*trial);
    }
    return absl::OkStatus();
  }

  ProductLibrary& library_;
  const ProductShape shape_;
  const TuneJob& job_;
  const std::vector<RowRange> ranges_;
  std::vector<Algorithm> algorithms_;
  std::vector<Trial> trials_;
};

}  // namespace

absl::StatusOr<std::vector<TunedProduct>> tune(ProductLibrary& library, const TuneJob& job,
                                               cudaStream_t stream,
                                               absl::FunctionRef<void(std::string_view)> said) {
  std::vector<TunedProduct> out;
  for (const ProductShape& shape : job.products) {
    ASSIGN_OR_RETURN(TunedProduct product, ProductTuner(library, shape, job).tune(stream, said));
    out.push_back(std::move(product));
  }
  return out;
}

absl::Status check_bits(ProductLibrary& library, const TunedProduct& product, cudaStream_t stream) {
  const int most = std::min(product.rows.back().most_rows, kMostCheckedRows);
  ASSIGN_OR_RETURN(const auto trials, ProductTrials::make(library, product.shape, most, stream));
  for (const int rows : {1, std::min(17, most), most}) {
    RETURN_IF_ERROR(trials->place_probes(rows));
    ASSIGN_OR_RETURN(const Trial trial, trials->look(*algorithm_for(product, rows)));
    if (!trial.uniform || trial.signature != product.signature)
      return absl::FailedPreconditionError(cat(
          "product ", product.shape.text(), ", ", rows,
          " rows: its algorithm has not the bits that it had when the table was made: make it again (baton "
          "tune -m MODEL -o FILE), or set numerics: bf16dot"));
  }
  return absl::OkStatus();
}

}  // namespace baton::kernels::cuda
