// The kernels of cam_pool for channels that are neighbours in memory: channels_last tensors.
#pragma once

#include "cam_pool_kernels.cuh"

namespace whylight::cam_pool {

constexpr int kTilePositions = 128;  // of one block, where there are too many for a block per split

// How the lanes of a warp walk a split: a vector of channels each, so many side by side at a position, and so many
// positions at a time.
template <class T>
inline constexpr int kChannelLanes = kSplit / kVector<T>;
template <class T>
inline constexpr int kRows = kWarp / kChannelLanes<T>;

// One split of one input, as one lane sees it. The loads are by vectors where the tensors are `kAligned`.
template <class T, Scheme S, bool kAligned>
struct SplitChannels {
  const T* activations;  // of position 0 and the lane's first channel
  int first, count;      // the lane's first channel within the split, and how many there are from it on
  int row;               // of the block's kWarps * kRows positions at a time
  const Shape& shape;

  __device__ __forceinline__ SplitChannels(const T* all, const Shape& s, int input, int split) : shape(s) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    first = lane % kChannelLanes<T> * kVector<T>;
    row = warp * kRows<T> + lane / kChannelLanes<T>;
    const int channel = split * kSplit + first;
    count = shape.channels - channel;
    activations = all + (input * shape.a.batch + channel);  // the channels' stride is 1
  }

  // The gradients at position 0 and the lane's first channel.
  __device__ __forceinline__ const T* gradients_of(const T* all, int target, int split) const {
    return all + (target * shape.g.batch + (split * kSplit + first) * shape.g.channel);
  }

  __device__ __forceinline__ void load_activations(int p, float (&values)[kVector<T>]) const {
    load_floats<kAligned>(activations + p * shape.a.position, 1, count, values);
  }

  __device__ __forceinline__ void load_gradients(const T* gradients, int p, float (&values)[kVector<T>]) const {
    load_floats<kAligned>(gradients + p * shape.g.position, shape.g.channel, count, values);
  }

  // What `add(p, own)` adds for the lane's channels at each of its positions, summed over the lanes and the warps in
  // order; then `finish` of each channel and its sum. Ends with all of it visible to the block. `columns`: kWarps *
  // kSplit floats.
  template <class Add, class Finish>
  __device__ __forceinline__ void sum_channels(float* columns, Add add, Finish finish) const {
    float own[kVector<T>] = {};
#pragma unroll(kAligned ? 2 : 1)
    for (int p = row; p < shape.positions; p += kWarps * kRows<T>) add(p, own);
#pragma unroll
    for (int offset = kWarp / 2; offset >= kChannelLanes<T>; offset /= 2) {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) own[i] += __shfl_xor_sync(0xffffffffu, own[i], offset);
    }
    const int thread = threadIdx.x;
    if (thread % kWarp < kChannelLanes<T>) {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) columns[thread / kWarp * kSplit + first + i] = own[i];
    }
    __syncthreads();  // columns is written
    if (thread < kSplit) {
      float v = 0.f;
      for (int w = 0; w < kWarps; ++w) v += columns[w * kSplit + thread];
      finish(thread, v);
    }
    __syncthreads();  // columns is read, and what finish wrote is written
  }

  __device__ __forceinline__ void sum_activations(float* columns, float* totals) const {
    sum_channels(
        columns,
        [&](int p, float (&own)[kVector<T>]) {
          float a[kVector<T>];
          load_activations(p, a);
#pragma unroll
          for (int i = 0; i < kVector<T>; ++i) own[i] += a[i];
        },
        [&](int c, float v) { totals[c] = v; });
  }

  // finish(c, weight) for every channel of the split. `totals` is read where the scheme needs it.
  template <class Finish>
  __device__ __forceinline__ void weigh(const T* gradients, float* columns, const float* totals, Finish finish) const {
    sum_channels(
        columns,
        [&](int p, float (&own)[kVector<T>]) {
          float g[kVector<T>];
          [[maybe_unused]] float a[kVector<T>];
          load_gradients(gradients, p, g);
          if constexpr (needs_total(S)) load_activations(p, a);
#pragma unroll
          for (int i = 0; i < kVector<T>; ++i) {
            if constexpr (needs_total(S)) {
              own[i] += term<S>(g[i], a[i], totals[first + i], shape.eps);
            } else {
              own[i] += g[i];
            }
          }
        },
        [&](int c, float v) {
          const float total = needs_total(S) ? totals[c] : 0.f;
          finish(c, channel_weight<S>(v, total, static_cast<float>(shape.positions), shape.eps));
        });
  }

  // The weighted sums of positions [begin, end). `weight`: of the lane's channels, where the scheme weighs channels.
  __device__ __forceinline__ void combine(const T* gradients, const float (&weight)[kVector<T>], int begin, int end,
                                          float* out) const {
#pragma unroll(kAligned ? 2 : 1)
    for (int p = begin + row; p - row % kRows<T> < end; p += kWarps * kRows<T>) {  // as long as the warp has any
      float v = 0.f;
      if (p < end) {
        float a[kVector<T>];
        [[maybe_unused]] float g[kVector<T>];
        load_activations(p, a);
        if constexpr (!weighs_channels(S)) load_gradients(gradients, p, g);
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) {
          if constexpr (weighs_channels(S)) {
            v = multiply_add(weight[i], a[i], v);
          } else {
            v = multiply_add(position_weight<S>(g[i]), a[i], v);
          }
        }
      }
#pragma unroll
      for (int offset = kChannelLanes<T> / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
      if (p < end && first == 0) out[p] = v;
    }
  }
};

// Maps of so many positions that a block walks a split of their channels alone. The split of an input is read again for
// its weighted sum while it is still in cache. Grid: groups x splits.
template <class T, Scheme S, bool kAligned>
__global__ void __launch_bounds__(kThreads, kResident)
    pool_channels_last(const T* __restrict__ activations, const T* __restrict__ gradients, float* __restrict__ partial,
                       const Shape shape, const Groups groups) {
  SIMT_SHARED(float, columns, kWarps* kSplit);
  SIMT_SHARED(float, totals, kSplit);
  SIMT_SHARED(float, weights, kSplit);
  const int split = blockIdx.x % shape.splits;
  const Span span = span_of(groups, blockIdx.x / shape.splits);
  const SplitChannels<T, S, kAligned> channels(activations, shape, span.input, split);
  if constexpr (needs_total(S)) channels.sum_activations(columns, totals);
  for (int m = span.first; m < span.last; ++m) {
    const T* g = channels.gradients_of(gradients, m, split);
    float weight[kVector<T>] = {};
    if constexpr (weighs_channels(S)) {
      // The last target's weights are read: its and this one's sums have a barrier between them.
      channels.weigh(g, columns, totals, [&](int c, float v) { weights[c] = v; });
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) weight[i] = weights[channels.first + i];
    }
    float* out = partial + (static_cast<int64_t>(m) * shape.splits + split) * shape.positions;
    channels.combine(g, weight, 0, shape.positions, out);
  }
}

// The weights of a split of channels with more positions than one block combines. Each group is one target. Grid:
// groups x splits.
template <class T, Scheme S, bool kAligned>
__global__ void __launch_bounds__(kThreads, kResident)
    weigh_channels_last(const T* __restrict__ activations, const T* __restrict__ gradients, float* __restrict__ weights,
                        const Shape shape, const Groups groups) {
  SIMT_SHARED(float, columns, kWarps* kSplit);
  SIMT_SHARED(float, totals, kSplit);
  const int split = blockIdx.x % shape.splits;
  const Span span = span_of(groups, blockIdx.x / shape.splits);
  const SplitChannels<T, S, kAligned> channels(activations, shape, span.input, split);
  if constexpr (needs_total(S)) channels.sum_activations(columns, totals);
  const T* g = channels.gradients_of(gradients, span.first, split);
  channels.weigh(g, columns, totals, [&](int c, float v) {
    const int channel = split * kSplit + c;
    if (channel < shape.channels) weights[static_cast<int64_t>(span.first) * shape.channels + channel] = v;
  });
}

// A split's weighted sums at a tile of the positions. Each group is one target. Grid: groups x splits x tiles of
// kTilePositions.
template <class T, Scheme S, bool kAligned>
__global__ void __launch_bounds__(kThreads, kResident)
    combine_channels_last(const T* __restrict__ activations, const T* __restrict__ gradients,
                          const float* __restrict__ weights, float* __restrict__ partial, const Shape shape,
                          const Groups groups) {
  const int tiles = (shape.positions + kTilePositions - 1) / kTilePositions;
  const int tile = blockIdx.x % tiles, split = blockIdx.x / tiles % shape.splits;
  const Span span = span_of(groups, blockIdx.x / tiles / shape.splits);
  const SplitChannels<T, S, kAligned> channels(activations, shape, span.input, split);
  float weight[kVector<T>] = {};
  if constexpr (weighs_channels(S)) {
    const float* of_split = weights + (static_cast<int64_t>(span.first) * shape.channels + split * kSplit);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) weight[i] = i < channels.count ? of_split[channels.first + i] : 0.f;
  }
  const int begin = tile * kTilePositions, left = shape.positions - begin;
  float* out = partial + (static_cast<int64_t>(span.first) * shape.splits + split) * shape.positions;
  channels.combine(channels.gradients_of(gradients, span.first, split), weight, begin,
                   left < kTilePositions ? shape.positions : begin + kTilePositions, out);
}

}  // namespace whylight::cam_pool
