// The kernels of cam_pool; know raw pointers and strides, neither torch nor how they are launched.
//
// Every kernel writes partial maps, one for each split of the channels, and `finish` adds them in a fixed order: no
// atomics, so a result repeats to the bit. Splits depend on the shape of a map alone, never on the batch. One writer
// per element, no return before a barrier, no word between blocks.
#pragma once

#include "../common/simt.h"
#include "cam_pool_math.h"

namespace whylight::cam_pool {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kUnroll = 2;              // channels that a warp has in flight
constexpr int kSplit = 64;              // channels per split
constexpr int kLanes = kSplit / kWarp;  // channels of a split per lane, where lanes walk channels
constexpr int kMaxGroups = 384;         // of one launch: the table travels with the arguments, within their 4 KiB

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
  int64_t input, first, last;
};

__device__ __forceinline__ Span span_of(const Groups& groups, int index) {
  if (groups.one_each) return {groups.base + index, groups.base + index, groups.base + index + 1};
  return {groups.input[index], groups.first[index], groups.first[index + 1]};
}

template <Scheme S>
__device__ __forceinline__ float term(float g, float a, float total, float eps) {
  return eps != 0.f ? weight_term<S, true>(g, a, total, eps) : weight_term<S, false>(g, a, total, eps);
}

// Planes of few positions, neighbours in memory: a warp takes a channel, a lane the positions lane, lane + 32, ..., and
// all of both planes stays in registers, so every scheme reads its inputs once; so do up to kTargets targets of an
// input. Grid: groups x splits.
template <class T, Scheme S, int kPerLane, int kTargets>
__global__ void __launch_bounds__(kThreads)
    pool_planar(const T* __restrict__ activations, const T* __restrict__ gradients, float* __restrict__ partial,
                const Shape shape, const Groups groups) {
  SIMT_SHARED(float, folded, kWarps * kPerLane * kWarp);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int split = blockIdx.x % shape.splits, begin = split * kSplit;
  const int end = begin + kSplit < shape.channels ? begin + kSplit : shape.channels;
  const Span span = span_of(groups, blockIdx.x / shape.splits);
  const int step = shape.g.position == 0 ? 0 : 1;  // of the gradients; of the activations it is 1
  for (int64_t m = span.first; m < span.last; m += kTargets) {
    float sum[kTargets][kPerLane] = {};
    for (int c = begin + warp * kUnroll; c < end; c += kWarps * kUnroll) {
      float a[kUnroll][kPerLane];
      float total[kUnroll] = {};
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const T* plane = activations + (span.input * shape.a.batch + (c + u) * shape.a.channel);
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) {
          const int p = lane + i * kWarp;
          a[u][i] = c + u < end && p < shape.positions ? to_float(plane[p]) : 0.f;
        }
      }
      if constexpr (needs_total(S)) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
          for (int i = 0; i < kPerLane; ++i) total[u] += a[u][i];
          total[u] = warp_sum(total[u]);
        }
      }
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
        if (m + t >= span.last) continue;
        float g[kUnroll][kPerLane];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          const T* plane = gradients + ((m + t) * shape.g.batch + (c + u) * shape.g.channel);
#pragma unroll
          for (int i = 0; i < kPerLane; ++i) {
            const int p = lane + i * kWarp;
            g[u][i] = c + u < end && p < shape.positions ? to_float(plane[p * step]) : 0.f;
          }
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          if constexpr (weighs_channels(S)) {
            float terms = 0.f;
#pragma unroll
            for (int i = 0; i < kPerLane; ++i) terms += term<S>(g[u][i], a[u][i], total[u], shape.eps);
            terms = warp_sum(terms);
            const float weight = channel_weight<S>(terms, total[u], static_cast<float>(shape.positions), shape.eps);
#pragma unroll
            for (int i = 0; i < kPerLane; ++i) sum[t][i] = multiply_add(weight, a[u][i], sum[t][i]);
          } else {
#pragma unroll
            for (int i = 0; i < kPerLane; ++i) {
              sum[t][i] = multiply_add(position_weight<S>(g[u][i]), a[u][i], sum[t][i]);
            }
          }
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
      if (m + t >= span.last) continue;  // the same in every thread of the block, and with it the barriers below
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) folded[(warp * kPerLane + i) * kWarp + lane] = sum[t][i];
      __syncthreads();  // folded is written
      float* out = partial + ((m + t) * shape.splits + split) * shape.positions;
      for (int p = threadIdx.x; p < shape.positions; p += kThreads) {
        float v = 0.f;
        for (int w = 0; w < kWarps; ++w) v += folded[w * kPerLane * kWarp + p];
        out[p] = v;
      }
      __syncthreads();  // folded is read, and may be written again
    }
  }
}

// What every lane has for its channels, lane, lane + 32, ..., summed over the warps in order; then `finish` of each
// channel and its sum. Ends with all of it visible to the block.
template <class F>
__device__ __forceinline__ void fold_channels(float* columns, const float (&own)[kLanes], int lane, int warp,
                                              F finish) {
#pragma unroll
  for (int j = 0; j < kLanes; ++j) columns[warp * kSplit + lane + j * kWarp] = own[j];
  __syncthreads();  // columns is written
  if (static_cast<int>(threadIdx.x) < kSplit) {
    float v = 0.f;
    for (int w = 0; w < kWarps; ++w) v += columns[w * kSplit + threadIdx.x];
    finish(static_cast<int>(threadIdx.x), v);
  }
  __syncthreads();  // columns is read, and what finish wrote is written
}

// Channels that are neighbours in memory: a lane takes the channels lane, lane + 32, ... of a split, a warp every
// eighth position. The split of an input is read again for its weighted sum while it is still in cache. Grid: groups x
// splits.
template <class T, Scheme S>
__global__ void __launch_bounds__(kThreads)
    pool_channels_last(const T* __restrict__ activations, const T* __restrict__ gradients, float* __restrict__ partial,
                       const Shape shape, const Groups groups) {
  SIMT_SHARED(float, columns, kWarps* kSplit);
  SIMT_SHARED(float, totals, kSplit);
  SIMT_SHARED(float, weights, kSplit);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int split = blockIdx.x % shape.splits, begin = split * kSplit;
  const int count = begin + kSplit < shape.channels ? kSplit : shape.channels - begin;
  const Span span = span_of(groups, blockIdx.x / shape.splits);
  const T* a = activations + (span.input * shape.a.batch + begin + lane);  // the channels' stride is 1
  if constexpr (needs_total(S)) {
    float own[kLanes] = {};
    for (int p = warp; p < shape.positions; p += kWarps) {
      const T* a_row = a + p * shape.a.position;
#pragma unroll
      for (int j = 0; j < kLanes; ++j) {
        const int c = lane + j * kWarp;
        if (c < count) own[j] += to_float(a_row[j * kWarp]);
      }
    }
    fold_channels(columns, own, lane, warp, [&](int c, float v) { totals[c] = v; });
  }
  for (int64_t m = span.first; m < span.last; ++m) {
    const T* g = gradients + (m * shape.g.batch + (begin + lane) * shape.g.channel);
    const int64_t g_step = kWarp * shape.g.channel;
    if constexpr (weighs_channels(S)) {
      float own[kLanes] = {};
      for (int p = warp; p < shape.positions; p += kWarps) {
        const T* g_row = g + p * shape.g.position;
        [[maybe_unused]] const T* a_row = a + p * shape.a.position;
#pragma unroll
        for (int j = 0; j < kLanes; ++j) {
          const int c = lane + j * kWarp;
          if (c >= count) continue;
          const float gradient = to_float(g_row[j * g_step]);
          if constexpr (needs_total(S)) {
            const float activation = to_float(a_row[j * kWarp]);
            own[j] += term<S>(gradient, activation, totals[c], shape.eps);
          } else {
            own[j] += gradient;
          }
        }
      }
      fold_channels(columns, own, lane, warp, [&](int c, float v) {
        const float total = needs_total(S) ? totals[c] : 0.f;
        weights[c] = channel_weight<S>(v, total, static_cast<float>(shape.positions), shape.eps);
      });
    }
    float* out = partial + (m * shape.splits + split) * shape.positions;
    for (int p = warp; p < shape.positions; p += kWarps) {
      const T* a_row = a + p * shape.a.position;
      [[maybe_unused]] const T* g_row = g + p * shape.g.position;
      float v = 0.f;
#pragma unroll
      for (int j = 0; j < kLanes; ++j) {
        const int c = lane + j * kWarp;
        if (c >= count) continue;
        const float activation = to_float(a_row[j * kWarp]);
        if constexpr (weighs_channels(S)) {
          v = multiply_add(weights[c], activation, v);
        } else {
          v = multiply_add(position_weight<S>(to_float(g_row[j * g_step])), activation, v);
        }
      }
      v = warp_sum(v);
      if (lane == 0) out[p] = v;
    }
    __syncthreads();  // weights is read, and may be written for the next target
  }
}

// The sum over a block, the same bits in every thread. `slots` has kWarps floats.
__device__ __forceinline__ float block_sum(float v, float* slots) {
  v = warp_sum(v);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
  __syncthreads();  // slots is written
  float sum = 0.f;
  for (int w = 0; w < kWarps; ++w) sum += slots[w];
  __syncthreads();  // slots is read, and may be written again
  return sum;
}

// The weight of a channel with more positions than one block keeps. Each group is one target. Grid: groups x channels.
template <class T, Scheme S>
__global__ void __launch_bounds__(kThreads)
    weigh_channel(const T* __restrict__ activations, const T* __restrict__ gradients, float* __restrict__ weights,
                  const Shape shape, const Groups groups) {
  SIMT_SHARED(float, slots, kWarps);
  const int c = blockIdx.x % shape.channels;
  const Span span = span_of(groups, blockIdx.x / shape.channels);
  const T* a = activations + span.input * shape.a.batch + c * shape.a.channel;
  const T* g = gradients + span.first * shape.g.batch + c * shape.g.channel;
  float total = 0.f;
  if constexpr (needs_total(S)) {
    for (int p = threadIdx.x; p < shape.positions; p += kThreads) total += to_float(a[p * shape.a.position]);
    total = block_sum(total, slots);
  }
  float terms = 0.f;
  for (int p = threadIdx.x; p < shape.positions; p += kThreads) {
    const float activation = needs_total(S) ? to_float(a[p * shape.a.position]) : 0.f;
    terms += term<S>(to_float(g[p * shape.g.position]), activation, total, shape.eps);
  }
  terms = block_sum(terms, slots);
  if (threadIdx.x == 0) {
    const float positions = static_cast<float>(shape.positions);
    weights[span.first * shape.channels + c] = channel_weight<S>(terms, total, positions, shape.eps);
  }
}

// A split's weighted sum at one position per thread, for positions that are neighbours in memory. Each group is one
// target. Grid: groups x splits x tiles of kThreads positions.
template <class T, Scheme S>
__global__ void __launch_bounds__(kThreads)
    combine_planar(const T* __restrict__ activations, const T* __restrict__ gradients,
                   const float* __restrict__ weights, float* __restrict__ partial, const Shape shape,
                   const Groups groups) {
  const int tiles = (shape.positions + kThreads - 1) / kThreads;
  const int tile = blockIdx.x % tiles, split = blockIdx.x / tiles % shape.splits;
  const Span span = span_of(groups, blockIdx.x / tiles / shape.splits);
  const int p = tile * kThreads + threadIdx.x, begin = split * kSplit;
  const int end = begin + kSplit < shape.channels ? begin + kSplit : shape.channels;
  if (p >= shape.positions) return;
  const T* a = activations + span.input * shape.a.batch + p * shape.a.position;
  const T* g = gradients + span.first * shape.g.batch + p * shape.g.position;
  float v = 0.f;
#pragma unroll 4
  for (int c = begin; c < end; ++c) {
    float weight;
    if constexpr (weighs_channels(S)) {
      weight = weights[span.first * shape.channels + c];
    } else {
      weight = position_weight<S>(to_float(g[c * shape.g.channel]));
    }
    v = multiply_add(weight, to_float(a[c * shape.a.channel]), v);
  }
  partial[(span.first * shape.splits + split) * shape.positions + p] = v;
}

// A split's weighted sum at one position per warp, for channels that are neighbours in memory. Each group is one
// target. Grid: groups x splits x tiles of kWarps positions.
template <class T, Scheme S>
__global__ void __launch_bounds__(kThreads)
    combine_channels_last(const T* __restrict__ activations, const T* __restrict__ gradients,
                          const float* __restrict__ weights, float* __restrict__ partial, const Shape shape,
                          const Groups groups) {
  const int tiles = (shape.positions + kWarps - 1) / kWarps;
  const int tile = blockIdx.x % tiles, split = blockIdx.x / tiles % shape.splits;
  const Span span = span_of(groups, blockIdx.x / tiles / shape.splits);
  const int lane = threadIdx.x % kWarp, p = tile * kWarps + threadIdx.x / kWarp;
  if (p >= shape.positions) return;  // whole warps
  const T* a = activations + span.input * shape.a.batch + p * shape.a.position;
  const T* g = gradients + span.first * shape.g.batch + p * shape.g.position;
  float v = 0.f;
#pragma unroll
  for (int j = 0; j < kLanes; ++j) {
    const int c = split * kSplit + lane + j * kWarp;
    if (c >= shape.channels) continue;
    float weight;
    if constexpr (weighs_channels(S)) {
      weight = weights[span.first * shape.channels + c];
    } else {
      weight = position_weight<S>(to_float(g[c * shape.g.channel]));
    }
    v = multiply_add(weight, to_float(a[c * shape.a.channel]), v);
  }
  v = warp_sum(v);
  if (lane == 0) partial[(span.first * shape.splits + split) * shape.positions + p] = v;
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
