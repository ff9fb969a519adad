#include "tests/kernels/cuda/emulation/emulated_hopper.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"

namespace baton::emulated {
namespace {

using kernels::cuda::MatrixA;
using kernels::cuda::TensorMap;
using kernels::cuda::TensorShape;

struct Load {
  unsigned char* to;
  TensorShape map;
  int x, y;
  uint64_t* barrier;
};

// A thread's share of one product: registers, operands.
struct Product {
  float* d;
  int columns;
  uint64_t a, b;
  bool add;
  Numbers numbers = Numbers::kBrain;
  std::vector<MatrixA> rows = {};  // of the warp's lanes, when a is in registers
};
struct Products {
  std::vector<std::vector<Product>> groups = {{}};  // the last is not committed yet
  std::map<float*, std::vector<float>> registers;   // as they really are, while d is the instruction's
  bool fenced = false;
};

struct State {
  std::map<uint64_t*, Barrier64> barriers;
  std::vector<Load> loads;
  std::map<unsigned, Products> products;  // by thread
};
State state;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Barrier64& barrier_at(uint64_t* barrier) {
  const auto found = state.barriers.find(barrier);
  BATON_CHECK(found != state.barriers.end(), "a barrier that was not initialised");
  return found->second;
}

// 9.7.13.15.2: the phase ends when no arrival and no byte is missing.
void end_phase_if_complete(Barrier64& b) {
  if (b.left != 0 || b.bytes != 0) return;
  b.left = b.arrivals;
  ++b.phase;
}

// 5.5.7, CU_TENSOR_MAP_SWIZZLE_128B: 16-byte chunks of a 128-byte row change places by the row's number in
// 1024 bytes.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

void land(const Load& load) {
  const TensorShape& m = load.map;
  for (int r = 0; r < m.box_rows; ++r)
    for (int c = 0; c < 64; ++c) {
      const int64_t row = load.y + r, column = load.x + c;
      const bool inside = row >= 0 && row < m.rows && column >= 0 && column < m.cols;
      const uint16_t value = inside ? m.base[row * m.ld + column] : uint16_t{0};
      std::memcpy(shared_at(swizzled(shared_address(load.to) + r * 128 + c * 2)), &value, 2);
    }
  Barrier64& b = barrier_at(load.barrier);
  b.bytes -= int64_t{m.box_rows} * 128;
  end_phase_if_complete(b);
}

uint32_t swizzled_start(uint64_t descriptor) {
  BATON_CHECK(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0,
              "emulated: the 128-byte swizzle, base offset 0");
  return static_cast<uint32_t>(descriptor & 0x3fff) << 4;
}

float brain_at(uint32_t address) {
  uint16_t value;
  std::memcpy(&value, shared_at(swizzled(address)), 2);
  return kernels::cuda::bf16_to_float(value);
}

// Element (k, column) of an N-major operand of 64 columns: 8 rows of 128 bytes are one atom, the stride leads
// to the next 8 k; the leading offset would lead to further columns.
float transposed_operand(uint64_t descriptor, int k, int column) {
  const auto stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  return brain_at(swizzled_start(descriptor) + k / 8 * stride + k % 8 * 128 + column * 2);
}

// 9.7.15.5.1.1, multiplicand A of m64nNk16 in registers: element (row, k) of the warp's 16 rows.
float fragment(const std::vector<MatrixA>& lanes, int row, int k) {
  const MatrixA& a = lanes[row % 8 * 4 + k % 8 / 2];
  const uint32_t words[4] = {a.a0, a.a1, a.a2, a.a3};
  const uint32_t word = words[(row % 16 >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)];
  return kernels::cuda::bf16_to_float(static_cast<uint16_t>(k % 2 == 0 ? word : word >> 16));
}

// Element (row, k) of a K-major operand with the 128-byte swizzle (9.7.15.5.1.2): 8 rows of 128 bytes are one
// atom, the stride leads to the next one; bits 0-13 start, 16-29 leading offset, 32-45 stride (all / 16),
// 49-51 base offset, 62-63 swizzle.
float operand(uint64_t descriptor, int row, int k, Numbers numbers) {
  const auto stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t at = swizzled_start(descriptor) + row / 8 * stride + row % 8 * 128;
  return numbers == Numbers::kBrain ? brain_at(at + k * 2)
                                    : kernels::e4m3_to_float(*shared_at(swizzled(at + k)));
}

// 9.7.15.5.1.1, accumulator D of m64nN: this thread's values.
void multiply(const Product& p, std::vector<float>& d) {
  const int thread = static_cast<int>(thread_index.x % 128), g = thread % 32 / 4, t = thread % 4;
  const int length = p.numbers == Numbers::kBrain ? 16 : 32;
  float a[2][32], b[32];
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < length; ++k) {
      const int row = thread / 32 * 16 + g + half * 8;
      a[half][k] = p.rows.empty() ? operand(p.a, row, k, p.numbers) : fragment(p.rows, row, k);
    }
  for (int column = 2 * t, v = 0; column < p.columns;
       column += column % 2 == 0 ? 1 : 7, v += v % 2 == 0 ? 1 : 3) {
    for (int k = 0; k < length; ++k)
      b[k] = p.rows.empty() ? operand(p.b, column, k, p.numbers) : transposed_operand(p.b, k, column);
    for (int half = 0; half < 2; ++half) {
      float sum = p.add ? d[v + 2 * half] : 0.0f;
      for (int k = 0; k < length; ++k) sum += a[half][k] * b[k];
      d[v + 2 * half] = sum;
    }
  }
}

Products& my_products() { return state.products[thread_index.x]; }

}  // namespace

void begin_hopper_block() { state = {}; }
std::shared_ptr<void> put_hopper_block_aside() { return std::make_shared<State>(std::exchange(state, {})); }
void take_hopper_block_back(const std::shared_ptr<void>& block) {
  state = std::move(*std::static_pointer_cast<State>(block));
}
void end_hopper_block() {
  BATON_CHECK(state.loads.empty(), "a block ended with tensor loads under way");
  for (const auto& [thread, products] : state.products)
    BATON_CHECK(products.registers.empty(), "a thread ended with products that were never waited for");
}

void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  BATON_CHECK(arrivals > 0 && shared_address(barrier) % 8 == 0);
  state.barriers[barrier] = {arrivals, arrivals, 0, 0};
}

void barrier_arrive(uint64_t* barrier, uint32_t bytes) {
  Barrier64& b = barrier_at(barrier);
  BATON_CHECK(b.left > 0, "more arrivals than a phase has");
  b.bytes += bytes;
  --b.left;
  note_progress();
  end_phase_if_complete(b);
}

// Ends when the phase of that parity has: the one under way has the other parity then. Loads land now, not
// before.
void barrier_wait(uint64_t* barrier, uint32_t parity) {
  const auto ended = [&] { return barrier_at(barrier).phase % 2 != parity; };
  while (!ended()) {
    const auto mine = std::ranges::find(state.loads, barrier, &Load::barrier);
    if (mine == state.loads.end()) {
      yield();
      continue;
    }
    const Load load = *mine;
    state.loads.erase(mine);
    land(load);
  }
}

void tensor_load(void* shared, const TensorMap& map, int x, int y, uint64_t* barrier) {
  Load load = {static_cast<unsigned char*>(shared), {}, x, y, barrier};
  std::memcpy(&load.map, map.bytes, sizeof load.map);
  BATON_CHECK(shared_address(shared) % 1024 == 0, "a swizzled box wants 1024-byte alignment");
  barrier_at(barrier);
  for (int i = 0; i < load.map.box_rows * 128; i += 2) {
    const uint16_t nan = 0x7fff;
    std::memcpy(shared_at(shared_address(shared) + i), &nan, 2);
  }
  state.loads.push_back(load);
}

void wgmma_fence() { my_products().fenced = true; }

void issue(std::span<float> d, const Product& product) {
  Products& products = my_products();
  BATON_CHECK(products.fenced, "a product without a fence before it");
  products.registers.try_emplace(d.data(), d.begin(), d.end());
  std::ranges::fill(d, kNan);
  products.groups.back().push_back(product);
}

void wgmma_rows(std::span<float> d, const MatrixA& a, uint64_t b) {
  struct Operands {
    uint64_t b;
    MatrixA a;
  };
  const Operands mine = {b, a};
  Product product = {d.data(), static_cast<int>(2 * d.size()), 0, b, true};
  for (const Deposit& other : warp_exchange(&mine, sizeof mine)) {
    Operands theirs;
    std::memcpy(&theirs, other.bytes, sizeof theirs);
    BATON_CHECK(theirs.b == b, "lanes give different operands to a product");
    product.rows.push_back(theirs.a);
  }
  issue(d, product);
}

void wgmma(std::span<float> d, uint64_t a, uint64_t b, bool add, Numbers numbers) {
  struct Operands {
    uint64_t a, b, add;
  };
  const Operands mine = {a, b, add};
  for (const Deposit& other : warp_exchange(&mine, sizeof mine))
    BATON_CHECK(std::memcmp(other.bytes, &mine, sizeof mine) == 0,
                "lanes give different operands to a product");
  issue(d, {d.data(), static_cast<int>(2 * d.size()), a, b, add, numbers});
}

void wgmma_commit() { my_products().groups.emplace_back(); }

void wgmma_wait(int pending) {
  sync_warp();  // .sync.aligned
  Products& products = my_products();
  auto& groups = products.groups;
  while (groups.size() > static_cast<size_t>(pending) + 1) {
    for (const Product& p : groups.front()) multiply(p, products.registers.at(p.d));
    groups.erase(groups.begin());
  }
  for (auto it = products.registers.begin(); it != products.registers.end();) {
    const bool busy = std::ranges::any_of(groups, [&](const std::vector<Product>& group) {
      return std::ranges::any_of(group, [&](const Product& p) { return p.d == it->first; });
    });
    if (!busy) std::ranges::copy(it->second, it->first);
    it = busy ? std::next(it) : products.registers.erase(it);
  }
  products.fenced = false;
}

}  // namespace baton::emulated

namespace baton::kernels::cuda {

absl::StatusOr<TensorMap> make_tensor_map(const TensorShape& s) {
  BATON_CHECK(s.box_rows >= 8 && s.box_rows <= 256 && s.rows > 0 && s.cols > 0);
  BATON_CHECK(reinterpret_cast<uintptr_t>(s.base) % 16 == 0 && s.ld * 2 % 16 == 0);
  BATON_CHECK(s.cols <= s.ld && s.ld * 2 < int64_t{1} << 40 && s.rows <= int64_t{1} << 32);
  emulated::check_inside_allocation(s.base, static_cast<size_t>((s.rows - 1) * s.ld + s.cols) * 2);
  TensorMap map = {};
  static_assert(sizeof s <= sizeof map.bytes);
  std::memcpy(map.bytes, &s, sizeof s);
  return map;
}

}  // namespace baton::kernels::cuda
