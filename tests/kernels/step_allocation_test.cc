#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "kernels/backend.h"

// Scratch grows in begin_step() only, and not at all once a step of that size and context has been seen.
namespace {

std::atomic<int64_t> allocations = 0;

void* counted(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = std::malloc(bytes);
  if (p == nullptr) std::abort();
  return p;
}

}  // namespace

void* operator new(size_t bytes) { return counted(bytes); }
void* operator new[](size_t bytes) { return counted(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }

namespace baton::kernels {
namespace {

constexpr int kHidden = 64, kFfn = 96, kContext = 320;
constexpr int kWidth = 4 * 16 + 2 * 2 * 16;

class Steps {
 public:
  explicit Steps(int threads)
      : bytes_(1 << 16), pool_(1 << 20), norm_(kHidden, 1.0f), buffer_(kContext * 1024) {
    backend_ = make_backend({.threads = threads}).value();
    qkv_ = make(kWidth, kHidden);
    back_ = make(kHidden, kHidden);
    gate_up_ = make(2 * kFfn, kHidden);
    down_ = make(kHidden, kFfn);
    EXPECT_TRUE(backend_->set_attention({4, 2, 16, 0.25f, 0}, {.inv_freq = {1, 0.1, 0.01}}).ok());
    EXPECT_TRUE(backend_->attach_kv(pool_, {1, 2, 16, 16, KvType::kBF16, kContext / 16}).ok());
    for (uint32_t b = 0; b < kContext / 16; ++b) blocks_.push_back(BlockId(b));
    tokens_.resize(kContext);
  }

  void run(int rows, int first_position) {
    positions_.clear();
    for (int i = 0; i < rows; ++i) positions_.push_back(first_position + i);
    sequences_ = {{0, rows, first_position, blocks_}};
    logit_rows_ = {rows - 1};
    const std::span<const TokenId> tokens(tokens_.data(), rows);
    float* x = buffer_.data();
    float* qkv = x + kContext * kHidden;
    float* hidden = qkv + kContext * kWidth;
    const int64_t before = allocations.load();
    backend_->begin_step({tokens, positions_, sequences_, logit_rows_});
    const int64_t begun = allocations.load();
    backend_->norm_linear({norm_, 1e-5f}, *qkv_, x, qkv);
    backend_->rope_store(0, nullptr, nullptr, qkv);
    backend_->attention(0, qkv, hidden);
    backend_->linear_add(*back_, hidden, x);
    backend_->gate_up({norm_, 1e-5f}, *gate_up_, x, hidden);
    backend_->linear_add(*down_, hidden, x);
    backend_->head({norm_, 1e-5f}, *qkv_, x, {qkv, maxima_.data()});
    EXPECT_TRUE(backend_->finish_step().ok());
    operations_ = allocations.load() - begun;
    step_ = allocations.load() - before;
  }
  int64_t operations() const { return operations_; }  // allocations of the last step's operations
  int64_t step() const { return step_; }              // begin_step() included

 private:
  std::unique_ptr<Linear> make(int rows, int cols) {
    return backend_->make_linear({{{DType::kQ8_0, bytes_.data(), rows, cols}}, {}, 1}).value();
  }

  std::vector<std::byte> bytes_, pool_;
  std::vector<float> norm_, buffer_, maxima_ = std::vector<float>(1);
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Linear> qkv_, back_, gate_up_, down_;
  std::vector<BlockId> blocks_;
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_, logit_rows_;
  std::vector<SequenceRows> sequences_;
  int64_t operations_ = 0, step_ = 0;
};

TEST(StepAllocation, NoneAfterWarmUp) {
  for (const int threads : {1, 2}) {
    Steps steps(threads);
    steps.run(40, 0);
    for (const bool seen : {false, true}) {
      for (int position = 40; position < 300; position += 13) {
        for (const int rows : {13, 1}) {
          steps.run(rows, position);
          EXPECT_EQ(seen ? steps.step() : steps.operations(), 0)
              << threads << " threads, position " << position;
        }
      }
    }
  }
}

}  // namespace
}  // namespace baton::kernels
