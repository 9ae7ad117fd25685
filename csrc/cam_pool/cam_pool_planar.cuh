// The kernels of cam_pool for positions that are neighbours in memory: contiguous tensors.
#pragma once

#include "cam_pool_kernels.cuh"

namespace whylight::cam_pool {

// Copies the first `count` of a slab of neighbours to shared memory, of activations (or none), and of gradients (or
// none): loads are on their way in twos of each before the first is waited for. `kMost`: vectors that a slab has at
// most.
template <int kMost, class T>
__device__ __forceinline__ void stage(const T* activations, Vector<T>* a_slab, const T* gradients, Vector<T>* g_slab,
                                      int count) {
  constexpr int kBatch = 2;
  const int vectors = count / kVector<T>;
#pragma unroll 1
  for (int begin = 0; begin < kMost; begin += kBatch * kThreads) {
    Vector<T> a[kBatch], g[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = begin + i * kThreads + threadIdx.x;
      if (activations && v < vectors) a[i] = load_vector(activations + v * kVector<T>);
      if (gradients && v < vectors) g[i] = load_vector(gradients + v * kVector<T>);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = begin + i * kThreads + threadIdx.x;
      if (activations && v < vectors) a_slab[v] = a[i];
      if (gradients && v < vectors) g_slab[v] = g[i];
    }
  }
  const int rest = vectors * kVector<T> + threadIdx.x;  // less than a vector, of a last split
  if (rest < count) {
    if (activations) a_slab[vectors].values[threadIdx.x] = activations[rest];
    if (gradients) g_slab[vectors].values[threadIdx.x] = gradients[rest];
  }
}

// A lane's positions of a plane, lane, lane + 32, ..., and zeros where there is none.
template <int kPerLane, class T>
__device__ __forceinline__ void load_plane(const T* plane, int step, int positions, float (&values)[kPerLane]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int p = lane + i * kWarp;
    values[i] = p < positions ? to_float(plane[p * step]) : 0.f;
  }
}

// Adds a channel, of which a warp has all of both planes, to a map.
template <Scheme S, int kPerLane>
__device__ __forceinline__ void add_channel(const float (&a)[kPerLane], const float (&g)[kPerLane], const Shape& shape,
                                            float (&sum)[kPerLane]) {
  float total = 0.f;
  if constexpr (needs_total(S)) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) total += a[i];
    total = warp_sum(total);
  }
  float weight = 0.f;
  if constexpr (weighs_channels(S)) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) weight += term<S>(g[i], a[i], total, shape.eps);
    weight = channel_weight<S>(warp_sum(weight), total, static_cast<float>(shape.positions), shape.eps);
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if constexpr (!weighs_channels(S)) weight = position_weight<S>(g[i]);
    sum[i] = multiply_add(weight, a[i], sum[i]);
  }
}

// Planes of few positions: a warp takes a channel, and all of both its planes is in registers at once, so every scheme
// reads its inputs once. A plane of 7 x 7 is no whole number of vectors, but a slab of 16 is: with `kStaged` the block
// fetches slabs by vectors into shared memory, and the warps read their planes there; without, for tensors that do not
// start at a vector or whose channels are not neighbours, where the planes lie. The arithmetic is the same. Grid:
// groups x splits.
template <class T, Scheme S, int kPerLane, bool kStaged>
__global__ void __launch_bounds__(kThreads, kPerLane > 2 ? kResident - 1 : kResident)
    pool_planar(const T* __restrict__ activations, const T* __restrict__ gradients, float* __restrict__ partial,
                const Shape shape, const Groups groups) {
  // One slab holds a split of small planes, and then serves all targets; else two targets are pooled beside each other.
  constexpr int kSlab = kStaged && kPerLane > 2 ? 2 * kWarps : kSplit;
  constexpr int kTargets = kPerLane > 2 ? 2 : 1;
  constexpr int kTogether = kStaged ? 1 : 2;  // channels that a warp has on their way to its registers
  constexpr int kVectors = kStaged ? kSlab * kPerLane * kWarp / kVector<T> : 1;
  SIMT_SHARED(float, folded, kWarps * kPerLane * kWarp);
  SIMT_SHARED(Vector<T>, a_slab, kVectors);
  SIMT_SHARED(Vector<T>, g_slab, kVectors);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int split = blockIdx.x % shape.splits, begin = split * kSplit;
  const int end = begin + kSplit < shape.channels ? begin + kSplit : shape.channels;
  const Span span = span_of(groups, blockIdx.x / shape.splits);
  const bool constant = shape.g.position == 0;
  const int g_step = constant ? 0 : 1;  // of the activations it is 1
  for (int m = span.first; m < span.last; m += kTargets) {
    float sum[kTargets][kPerLane] = {};
    for (int slab = begin; slab < end; slab += kSlab) {
      const int slab_end = slab + kSlab < end ? slab + kSlab : end;
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
        if (m + t >= span.last) continue;  // the same in every thread of the block, and with it the barriers below
        const T* a_planes = activations + (span.input * shape.a.batch + slab * shape.a.channel);
        const T* g_planes = gradients + ((m + t) * shape.g.batch + slab * shape.g.channel);
        if constexpr (kStaged) {
          const bool new_activations = t == 0 && (kSlab < kSplit || m == span.first);
          __syncthreads();  // the slabs are read, and may be written again
          stage<kVectors>(new_activations ? a_planes : nullptr, a_slab, constant ? nullptr : g_planes, g_slab,
                          (slab_end - slab) * shape.positions);
          __syncthreads();  // the slabs are written
        }
#pragma unroll 1
        for (int c = slab + warp; c < slab_end; c += kWarps * kTogether) {
          float a[kTogether][kPerLane], g[kTogether][kPerLane];
#pragma unroll
          for (int u = 0; u < kTogether; ++u) {
            const int k = c + u * kWarps - slab, positions = slab + k < slab_end ? shape.positions : 0;
            const T* g_plane = g_planes + k * shape.g.channel;
            if constexpr (kStaged) {
              load_plane(a_slab->values + k * shape.positions, 1, positions, a[u]);
              if (!constant) g_plane = g_slab->values + k * shape.positions;
            } else {
              load_plane(a_planes + k * shape.a.channel, 1, positions, a[u]);
            }
            load_plane(g_plane, g_step, positions, g[u]);
          }
#pragma unroll
          for (int u = 0; u < kTogether; ++u) add_channel<S>(a[u], g[u], shape, sum[t]);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
      if (m + t >= span.last) continue;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) folded[(warp * kPerLane + i) * kWarp + lane] = sum[t][i];
      __syncthreads();  // folded is written
      float* out = partial + (static_cast<int64_t>(m + t) * shape.splits + split) * shape.positions;
      for (int p = threadIdx.x; p < shape.positions; p += kThreads) {
        float v = 0.f;
        for (int w = 0; w < kWarps; ++w) v += folded[w * kPerLane * kWarp + p];
        out[p] = v;
      }
      __syncthreads();  // folded is read, and may be written again
    }
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

// A vector of a plane's positions from p on; a step of 0 repeats one gradient.
template <bool kAligned, class T>
__device__ __forceinline__ void load_positions(const T* plane, int64_t step, int p, int positions,
                                               float (&values)[kVector<T>]) {
  if (step == 0) {
    load_floats<false>(plane, 0, positions - p, values);
  } else {
    load_floats<kAligned>(plane + p, 1, positions - p, values);
  }
}

// The weight of a channel with more positions than one block keeps. Each group is one target. Grid: groups x channels.
template <class T, Scheme S, bool kAligned>
__global__ void __launch_bounds__(kThreads, kResident)
    weigh_planar(const T* __restrict__ activations, const T* __restrict__ gradients, float* __restrict__ weights,
                 const Shape shape, const Groups groups) {
  SIMT_SHARED(float, slots, kWarps);
  const int c = blockIdx.x % shape.channels;
  const Span span = span_of(groups, blockIdx.x / shape.channels);
  const T* a_plane = activations + (span.input * shape.a.batch + c * shape.a.channel);
  const T* g_plane = gradients + (span.first * shape.g.batch + c * shape.g.channel);
  const int begin = threadIdx.x * kVector<T>;
  constexpr int kStep = kThreads * kVector<T>;
  float a[kVector<T>] = {}, g[kVector<T>];
  float total = 0.f;
  if constexpr (needs_total(S)) {
#pragma unroll(kAligned ? 2 : 1)
    for (int p = begin; p < shape.positions; p += kStep) {
      load_positions<kAligned>(a_plane, 1, p, shape.positions, a);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) total += a[i];
    }
    total = block_sum(total, slots);
  }
  float terms = 0.f;
#pragma unroll(kAligned ? 2 : 1)
  for (int p = begin; p < shape.positions; p += kStep) {
    if constexpr (needs_total(S)) load_positions<kAligned>(a_plane, 1, p, shape.positions, a);
    load_positions<kAligned>(g_plane, shape.g.position, p, shape.positions, g);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) terms += term<S>(g[i], a[i], total, shape.eps);
  }
  terms = block_sum(terms, slots);
  if (threadIdx.x == 0) {
    const float positions = static_cast<float>(shape.positions);
    weights[static_cast<int64_t>(span.first) * shape.channels + c] =
        channel_weight<S>(terms, total, positions, shape.eps);
  }
}

constexpr int kTileThreads = 64;  // a map of 28 x 28 fills three such blocks by fours, but not one of 256 threads

// A split's weighted sum, a vector of positions per thread. Each group is one target. Grid: groups x splits x tiles of
// kTileThreads vectors.
template <class T, Scheme S, bool kAligned>
__global__ void __launch_bounds__(kTileThreads)
    combine_planar(const T* __restrict__ activations, const T* __restrict__ gradients,
                   const float* __restrict__ weights, float* __restrict__ partial, const Shape shape,
                   const Groups groups) {
  constexpr int kTile = kTileThreads * kVector<T>;
  const int tiles = (shape.positions + kTile - 1) / kTile;
  const int tile = blockIdx.x % tiles, split = blockIdx.x / tiles % shape.splits;
  const Span span = span_of(groups, blockIdx.x / tiles / shape.splits);
  const int p = tile * kTile + threadIdx.x * kVector<T>, begin = split * kSplit;
  const int end = begin + kSplit < shape.channels ? begin + kSplit : shape.channels;
  if (p >= shape.positions) return;
  const T* a_planes = activations + span.input * shape.a.batch;
  const T* g_planes = gradients + span.first * shape.g.batch;
  float sum[kVector<T>] = {};
#pragma unroll(kAligned ? 4 : 1)
  for (int c = begin; c < end; ++c) {
    float a[kVector<T>], weight[kVector<T>];
    load_positions<kAligned>(a_planes + c * shape.a.channel, 1, p, shape.positions, a);
    if constexpr (weighs_channels(S)) {
      const float of_channel = weights[static_cast<int64_t>(span.first) * shape.channels + c];
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) weight[i] = of_channel;
    } else {
      load_positions<kAligned>(g_planes + c * shape.g.channel, shape.g.position, p, shape.positions, weight);
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) weight[i] = position_weight<S>(weight[i]);
    }
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) sum[i] = multiply_add(weight[i], a[i], sum[i]);
  }
  float* out = partial + (static_cast<int64_t>(span.first) * shape.splits + split) * shape.positions;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    if (p + i < shape.positions) out[p + i] = sum[i];
  }
}

}  // namespace whylight::cam_pool
