#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace baton::worker {

// The latest value of something, for other threads: a sequence lock. The writer never waits and makes no
// system call; a reader that meets a write in progress tries again. Thread: store() one, load() any.
template <class T>
class Latest {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit Latest(const T& value) { store(value); }

  void store(const T& value) {
    std::array<uint64_t, kWords> words{};
    std::memcpy(words.data(), &value, sizeof(T));
    const uint32_t turn = turn_.load(std::memory_order_relaxed);
    turn_.store(turn + 1, std::memory_order_relaxed);  // odd: being written
    // Release per word: whoever sees a new word also sees that the turn is odd.
    for (size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_release);
    turn_.store(turn + 2, std::memory_order_release);
  }

  T load() const {
    std::array<uint64_t, kWords> words;
    for (;;) {
      const uint32_t turn = turn_.load(std::memory_order_acquire);
      for (size_t i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_acquire);
      if (turn % 2 == 0 && turn_.load(std::memory_order_relaxed) == turn) break;
    }
    T value;
    std::memcpy(static_cast<void*>(&value), words.data(), sizeof(T));
    return value;
  }

 private:
  static constexpr size_t kWords = (sizeof(T) + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  std::atomic<uint32_t> turn_{0};
  std::array<std::atomic<uint64_t>, kWords> words_{};
};

}  // namespace baton::worker
