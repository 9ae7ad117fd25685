// What a slice of a map on the CPU is made from, and the function that makes some, one per instruction set.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

#include "../common/layout.h"
#include "cam_pool_scheme.h"

namespace whylight::cam_pool {

using torch::headeronly::ScalarType;

// The targets [first, next group's first) of one input.
struct Group {
  int64_t input;
  int64_t first;
};

constexpr int kBlock = 4;         // channels that are added to a map in one pass over it
constexpr int kRowsTogether = 4;  // rows of channels that are added up in one pass over their sums
constexpr int64_t kWalk = 2048;   // channels of a row that are walked together
constexpr int64_t kRun = 64;      // positions that are summed before their sum is: rounding stays small

// Everything that a slice needs to know, T being the type that is computed in.
template <class T>
struct Work {
  const void* activations;
  const void* gradients;
  ScalarType activation_type, gradient_type;
  Planes a, g;
  int64_t channels, positions, channels_per_slice, slices;
  Scheme scheme;
  T eps;
  const Group* groups;
  T* sums;  // [targets, slices, positions]

  T* sums_of(int64_t target, int64_t slice) const { return sums + (target * slices + slice) * positions; }
};

// How many slices of channels_last rows are walked together: what is kept of them stays in the first-level cache.
template <class T>
int64_t slices_per_walk(const Work<T>& work) {
  return work.channels_per_slice < kWalk ? kWalk / work.channels_per_slice : 1;
}

// Makes slices [begin, end), slice `i % slices` of group `i / slices`. `scratch` has scratch_size elements.
template <class T>
using Kernel = void (*)(const Work<T>&, int64_t begin, int64_t end, T* scratch);

template <class T>
int64_t scratch_size(const Work<T>& work) {
  const int64_t planar = (2 * kBlock + 1) * work.positions;
  const int64_t channels_last = (3 + 2 * kRowsTogether) * slices_per_walk(work) * work.channels_per_slice;
  return planar > channels_last ? planar : channels_last;
}

Kernel<float> pool_avx512(float);
Kernel<double> pool_avx512(double);
Kernel<float> pool_avx2(float);
Kernel<double> pool_avx2(double);

}  // namespace whylight::cam_pool
