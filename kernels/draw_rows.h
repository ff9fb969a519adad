#pragma once

#include <cstdint>

namespace baton::kernels {

// What is done to one logit before a token is drawn, in this order: + bias; masked: never drawn; seen (in
// prompt or output): divided by `repetition` when positive, else multiplied; in the output `count` times: -
// frequency * count,
// - presence. An id stands once in a row's changes; last, -1: what the row was fed (DeviceBackend::feed).
struct LogitChange {
  int32_t id = 0;
  float bias = 0;
  int32_t count = 0;
  int32_t flags = 0;
  float raw = 0;  // the backend's own: the logit as it was
  static constexpr int32_t kBiased = 1, kMasked = 2, kSeen = 4;
};

// How a backend that draws() is to draw the token of one logit row: the sampler's steps
// (worker/model/sampler.h) on prepared numbers, so that the token depends on the row's logits and on nothing
// else. Plain C++20, for device code too.
struct DrawRow {
  double uniform = 0;     // in [0, 1): of (seed, position)
  float temperature = 0;  // 0 = greedy
  float top_p = 1;        // 1 = all
  float min_p = 0;        // 0 = all
  int32_t top_k = 0;      // 0 = all
  float repetition = 1, frequency = 0, presence = 0;
  int32_t first_change = 0, changes = 0;  // of StepBatch::changes
  int32_t wanted = 0;                     // 0: the caller wants the row's logits instead
  int32_t report = -1;                    // >= 0: a DrawReport too, with so many of the likeliest tokens
};

// What log-probabilities are made of: of the logits before any change.
struct DrawReport {
  static constexpr int32_t kMostTop = 20;
  static constexpr double kUnit = 0x1p-45;  // of `mass`
  struct Top {
    int32_t id = 0;
    float logit = 0;
  };
  uint64_t mass = 0;  // sum over the vocabulary of e^(logit - largest), each rounded to kUnit
  float largest = 0;
  float logit = 0;    // the drawn token's
  Top top[kMostTop];  // the `report` likeliest ones, in no order; ties go to the lower id
};

struct DrawnToken {
  enum State : int32_t {
    kNone,  // not asked for: the logits are there
    kDrawn,
    kNotFinite,    // the logits are not finite
    kNothingLeft,  // mask, bias and penalties leave no finite largest logit
  };
  int32_t token = -1;
  int32_t state = kNone;
};

}  // namespace baton::kernels
