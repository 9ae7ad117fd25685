// What the kernels of cam_pool have in common, and the one that ends every call; they know raw pointers and strides,
// neither torch nor how they are launched.
//
// Every kernel writes partial maps, one for each split of the channels, and `finish` adds them in a fixed order: no
// atomics, so a result repeats to the bit. Splits depend on the shape of a map alone, never on the batch. One writer
// per element, no return before a barrier, no word between blocks.
#pragma once

#include "../common/simt.h"
#include "../common/vectors.h"
#include "cam_pool_math.h"

namespace whylight::cam_pool {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kResident = 4;     // blocks that a multiprocessor has room for at least: 64 registers a thread
constexpr int kSplit = 64;       // channels per split
constexpr int kMaxGroups = 384;  // of one launch: the table travels with the arguments, within their 4 KiB

struct Strides {
  int64_t batch, channel, position;
};

struct Shape {
  int channels, positions, splits;
  Strides a, g;
  float eps;
};

// The inputs of a launch and the targets of each: group i has targets [first[i], first[i + 1]) of input[i], or, when
// `one_each`, target base + i of input base + i.
struct Groups {
  bool one_each;
  int64_t base;
  int32_t input[kMaxGroups];
  int32_t first[kMaxGroups + 1];
};

struct Span {
  int input, first, last;
};

__device__ __forceinline__ Span span_of(const Groups& groups, int index) {
  const int row = static_cast<int>(groups.base) + index;
  if (groups.one_each) return {row, row, row + 1};
  return {groups.input[index], groups.first[index], groups.first[index + 1]};
}

template <Scheme S>
__device__ __forceinline__ float term(float g, float a, float total, float eps) {
  return eps != 0.f ? weight_term<S, true>(g, a, total, eps) : weight_term<S, false>(g, a, total, eps);
}

// Adds the splits of each target in order. Grid: one thread per element of the maps.
template <class Sum>
__global__ void __launch_bounds__(kThreads)
    finish(const Sum* __restrict__ partial, Sum* __restrict__ maps, int64_t count, int positions, int splits) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const Sum* source = partial + index / positions * splits * positions + index % positions;
  Sum v = 0;
  for (int s = 0; s < splits; ++s) v += source[static_cast<int64_t>(s) * positions];
  maps[index] = v;
}

}  // namespace whylight::cam_pool
