#include "tests/kernels/cuda/emulation/emulated_device.h"

#include <setjmp.h>
#include <ucontext.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "tests/kernels/cuda/emulation/emulated_hopper.h"

namespace baton::emulated {
namespace {

constexpr size_t kStackBytes = 128 << 10;

struct Copy {
  void* to;
  const void* from;
  int bytes;  // the others of 16 are zeros
};

// AddressSanitizer is told which stack is in use. One object for each stack that is left and comes back.
class StackSwitch {
 public:
#ifdef __SANITIZE_ADDRESS__
  void leave_for(const void* stack, size_t bytes) { __sanitizer_start_switch_fiber(&kept_, stack, bytes); }
  // `from`, `bytes`: the stack that was left for this one.
  void arrived(const void** from, size_t* bytes) { __sanitizer_finish_switch_fiber(kept_, from, bytes); }
  static void leave_for_good(const void* stack, size_t bytes) {
    __sanitizer_start_switch_fiber(nullptr, stack, bytes);
  }

 private:
  void* kept_ = nullptr;
#else
  void leave_for(const void*, size_t) {}
  void arrived(const void**, size_t*) {}
  static void leave_for_good(const void*, size_t) {}
#endif
};

// A fiber begins by setcontext and goes on by longjmp, which needs no system call.
struct Fiber {
  ucontext_t context;
  jmp_buf at;
  bool begun = false;
  std::unique_ptr<unsigned char[]> stack;
  StackSwitch stack_switch;
  bool done = false;
  std::vector<std::vector<Copy>> copies;  // groups; the last is not committed yet
};

// Threads that have to meet.
struct Barrier {
  unsigned arrived = 0;
  uint64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  std::array<Deposit, 32> deposits;
};

struct Block {
  const std::function<void()>* kernel = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier, group;
  std::vector<unsigned char> shared;
  jmp_buf scheduler;
  StackSwitch scheduler_switch;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  unsigned current = 0;
  uint64_t progress = 0;  // barriers passed and fibers ended
  bool waits = false;     // a thread does, for the kernels before
};
Block block;

// Kernels that this thread started and that have not run, the oldest first.
thread_local std::vector<std::function<void()>> started;

// Where dynamic shared memory begins: not at a multiple of what a kernel may need.
constexpr uint32_t kSharedBegin = 1024 + 128;

void resume(Fiber& fiber) {
  if (_setjmp(block.scheduler) != 0) return block.scheduler_switch.arrived(nullptr, nullptr);
  block.scheduler_switch.leave_for(fiber.stack.get(), kStackBytes);
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}

void meet(Barrier& barrier, unsigned members) {
  if (++barrier.arrived == members) {
    barrier.arrived = 0;
    ++barrier.generation;
    ++block.progress;
    return;
  }
  const uint64_t generation = barrier.generation;
  while (barrier.generation == generation) yield();
}

void enter() {
  block.fibers[block.current].stack_switch = {};
  block.fibers[block.current].stack_switch.arrived(&block.scheduler_stack, &block.scheduler_stack_bytes);
  (*block.kernel)();
  BATON_CHECK(block.fibers[block.current].copies.empty() || block.fibers[block.current].copies.back().empty(),
              "a thread ends with copies that were never committed");
  block.fibers[block.current].done = true;
  ++block.progress;
  StackSwitch::leave_for_good(block.scheduler_stack, block.scheduler_stack_bytes);
  _longjmp(block.scheduler, 1);
}

void start(Fiber& fiber) {
  if (fiber.stack == nullptr) fiber.stack = std::make_unique_for_overwrite<unsigned char[]>(kStackBytes);
  fiber.done = fiber.begun = false;
  fiber.copies.assign(1, {});
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

// Others run in between: the block and its indices are put aside.
void run_kernels_before() {
  Block mine = std::exchange(block, {});
  const std::array<Index, 3> indices = {thread_index, block_index, grid_size};
  const std::shared_ptr<void> hopper = put_hopper_block_aside();
  end_kernels();
  take_hopper_block_back(hopper);
  std::tie(thread_index, block_index, grid_size) = std::tie(indices[0], indices[1], indices[2]);
  block = std::move(mine);
  block.waits = false;
  ++block.progress;
}

void run_block() {
  for (Fiber& fiber : block.fibers) start(fiber);
  block.warps.assign((block.fibers.size() + 31) / 32, {});
  block.barrier = block.group = {};
  std::ranges::fill(block.shared, static_cast<unsigned char>(0xff));
  begin_hopper_block();
  for (bool running = true; running;) {
    running = false;
    const uint64_t before = block.progress;
    for (unsigned i = 0; i < block.fibers.size(); ++i) {
      if (block.fibers[i].done) continue;
      running = true;
      block.current = i;
      thread_index = {i, 0, 0};
      resume(block.fibers[i]);
      if (block.waits) run_kernels_before();
    }
    BATON_CHECK(!running || block.progress != before,
                "threads of a block wait for each other in different places");
  }
  end_hopper_block();
}

}  // namespace

void launch(Index grid, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
  BATON_CHECK(threads % 32 == 0 && threads <= 1024 && shared_bytes <= 227 * 1024);
  static std::recursive_mutex one_at_a_time;  // ranks of a group are threads
  const std::lock_guard lock(one_at_a_time);
  block.kernel = &kernel;
  block.fibers.resize(threads);
  block.shared.resize(shared_bytes);
  grid_size = grid;
  for (unsigned y = 0; y < std::max(grid.y, 1u); ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      block_index = {x, y, 0};
      run_block();
    }
}

void start_kernel(bool overlap, std::function<void()> kernel) {
  constexpr size_t kMostStarted = 5;  // each has the stacks of a block; a device has two
  if (!overlap || started.size() == kMostStarted) end_kernels();
  started.push_back(std::move(kernel));
  if (!overlap) end_kernels();
}

void end_kernels() {
  if (started.empty()) return;
  const std::function<void()> last = std::move(started.back());
  started.pop_back();
  last();
  BATON_CHECK(started.empty(), "a kernel ended without having waited for those before it");
}

void wait_for_kernels() {
  while (!started.empty()) {
    block.waits = true;
    yield();
  }
}

void yield() {
  StackSwitch& own = block.fibers[block.current].stack_switch;
  if (_setjmp(block.fibers[block.current].at) != 0) return own.arrived(nullptr, nullptr);
  own.leave_for(block.scheduler_stack, block.scheduler_stack_bytes);
  _longjmp(block.scheduler, 1);
}

void note_progress() { ++block.progress; }

uint32_t shared_address(const void* shared) {
  const auto* at = static_cast<const unsigned char*>(shared);
  BATON_CHECK(at >= block.shared.data() && at < block.shared.data() + block.shared.size(),
              "an address outside of shared memory");
  return static_cast<uint32_t>(at - block.shared.data()) + kSharedBegin;
}

unsigned char* shared_at(uint32_t address) {
  BATON_CHECK(address >= kSharedBegin && address < kSharedBegin + block.shared.size(),
              "an address outside of shared memory");
  return block.shared.data() + (address - kSharedBegin);
}

void sync_threads() {
  const auto alive = std::ranges::count_if(block.fibers, [](const Fiber& f) { return !f.done; });
  meet(block.barrier, static_cast<unsigned>(alive));
}

void sync_first(unsigned threads) {
  BATON_CHECK(block.current < threads);
  meet(block.group, threads);
}

void sync_warp() {
  const unsigned warp = block.current / 32;
  for (unsigned i = warp * 32; i < warp * 32 + 32; ++i)
    BATON_CHECK(!block.fibers[i].done, "a warp operation after a lane has left");
  meet(block.warps[warp].barrier, 32);
}

std::span<const Deposit, 32> warp_exchange(const void* bytes, size_t size) {
  BATON_CHECK(size <= sizeof(Deposit));
  Warp& warp = block.warps[block.current / 32];
  sync_warp();  // everybody has read the previous deposits
  std::memcpy(warp.deposits[block.current % 32].bytes, bytes, size);
  sync_warp();
  return warp.deposits;
}

unsigned char* shared_memory() {
  const auto at = reinterpret_cast<uintptr_t>(block.shared.data());
  BATON_CHECK(at % 16 == 0);
  return block.shared.data();
}

void check_aligned(const void* at, size_t bytes) {
  BATON_CHECK(reinterpret_cast<uintptr_t>(at) % bytes == 0, "a load that is not aligned");
}

void queue_copy(void* shared, const void* global, int bytes) {
  BATON_CHECK(bytes >= 0 && bytes <= 16);
  const auto* at = static_cast<unsigned char*>(shared);
  BATON_CHECK(at >= block.shared.data() && at + 16 <= block.shared.data() + block.shared.size(),
              "a copy outside of shared memory");
  BATON_CHECK(reinterpret_cast<uintptr_t>(global) % 16 == 0 && (at - block.shared.data()) % 16 == 0,
              "a copy of 16 bytes that is not aligned");
  block.fibers[block.current].copies.back().push_back({shared, global, bytes});
}

void commit_copies() { block.fibers[block.current].copies.emplace_back(); }

void wait_copies(int pending) {
  auto& groups = block.fibers[block.current].copies;
  while (groups.size() > static_cast<size_t>(pending) + 1) {
    for (const Copy& copy : groups.front()) {
      std::memset(copy.to, 0, 16);
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
    }
    groups.erase(groups.begin());
  }
}

}  // namespace baton::emulated

namespace baton::kernels::cuda {
namespace {

struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
};

float half_of(uint32_t word, int half) {
  return bf16_to_float(static_cast<uint16_t>(half == 0 ? word : word >> 16));
}

}  // namespace

void mma_bf16(float (&c)[4], MatrixA a, uint32_t b0, uint32_t b1) {
  const Fragments mine = {{a.a0, a.a1, a.a2, a.a3}, {b0, b1}};
  const auto all = emulated::warp_exchange(&mine, sizeof mine);
  Fragments lanes[32];
  for (int l = 0; l < 32; ++l) std::memcpy(&lanes[l], all[l].bytes, sizeof mine);
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  for (int e = 0; e < 4; ++e) {
    const int row = g + (e >= 2 ? 8 : 0), column = 2 * t + e % 2;
    for (int k = 0; k < 16; ++k) {
      const float x = half_of(lanes[row % 8 * 4 + k % 8 / 2].a[(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)], k % 2);
      const float y = half_of(lanes[column * 4 + k % 8 / 2].b[k >= 8 ? 1 : 0], k % 2);
      c[e] += x * y;
    }
  }
}

void load_transposed(uint32_t& b0, uint32_t& b1, const void* row) {
  const auto all = emulated::warp_exchange(&row, sizeof row);
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  const auto element = [&](int r, int column) {
    const unsigned char* from;
    std::memcpy(&from, all[r].bytes, sizeof from);
    uint16_t value;
    std::memcpy(&value, from + 2 * column, sizeof value);
    return static_cast<uint32_t>(value);
  };
  b0 = element(2 * t, g) | element(2 * t + 1, g) << 16;
  b1 = element(8 + 2 * t, g) | element(8 + 2 * t + 1, g) << 16;
}

}  // namespace baton::kernels::cuda
