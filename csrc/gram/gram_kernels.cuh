// The kernels after the GEMM of a Gram matrix; know raw pointers, neither torch nor how they are launched.
//
// `finish_tiles` writes what lies below the diagonal from what lies above, which alone it reads; with a target, both
// become the symmetric part of the difference to it, and `add_sums` adds the tiles' sums of squares in a fixed order.
// No atomics, one writer per element, no return before a barrier, no word between blocks.
#pragma once

#include "../common/simt.h"
#include "gram_math.h"

namespace whylight::gram {

constexpr int kTile = kWarp;  // rows and columns
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPitch = kTile + 1;  // of a tile in shared memory, so that its columns lie in different banks

struct Shape {
  int channels, tiles, pairs;  // tiles to a row; tiles on or above the diagonal
  int64_t target_stride;       // from one matrix's target to the next: 0 if they share one
};

struct Tile {
  int row, column;  // of tiles, row <= column
};

// Pair p of a matrix: the tiles above the diagonal, column by column.
__device__ __forceinline__ Tile tile_of(int pair) {
  int column = static_cast<int>((sqrtf(8.f * static_cast<float>(pair) + 1.f) - 1.f) * 0.5f);
  while (static_cast<int64_t>(column) * (column + 1) / 2 > pair) --column;  // the root is rounded
  while (static_cast<int64_t>(column + 1) * (column + 2) / 2 <= pair) ++column;
  return {pair - static_cast<int>(static_cast<int64_t>(column) * (column + 1) / 2), column};
}

// The sum over a block, the same bits in every thread. `slots` has kWarps floats.
__device__ __forceinline__ float block_sum(float v, float* slots) {
  v = warp_sum(v);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
  __syncthreads();  // slots is written
  float sum = 0.f;
  for (int w = 0; w < kWarps; ++w) sum += slots[w];
  return sum;
}

// A tile and its mirror image: gram [N, C, C] in place, sums [N, pairs]. Grid: matrices x pairs.
template <bool HasTarget>
__global__ void __launch_bounds__(kThreads)
    finish_tiles(float* gram, const float* __restrict__ target, float* __restrict__ sums, const Shape shape) {
  SIMT_SHARED(float, turned, kTile* kPitch);
  SIMT_SHARED(float, target_turned, kTile* kPitch);
  SIMT_SHARED(float, slots, kWarps);
  const int x = threadIdx.x % kTile, first = threadIdx.x / kTile;
  const int64_t matrix = blockIdx.x / shape.pairs;
  const Tile tile = tile_of(static_cast<int>(blockIdx.x % shape.pairs));
  const bool diagonal = tile.row == tile.column;
  const int row = tile.row * kTile, column = tile.column * kTile;
  const int64_t channels = shape.channels;
  float* own = gram + matrix * channels * channels;
  const float* goal = HasTarget ? target + matrix * shape.target_stride : nullptr;
  float upper[kTile / kWarps], goals[kTile / kWarps];
#pragma unroll
  for (int k = 0; k < kTile / kWarps; ++k) {
    const int y = first + k * kWarps;
    const bool within = row + y < channels && column + x < channels;
    upper[k] = within ? own[(row + y) * channels + column + x] : 0.f;
    turned[x * kPitch + y] = upper[k];
    if constexpr (HasTarget) {
      goals[k] = within ? goal[(row + y) * channels + column + x] : 0.f;
      const bool below = column + y < channels && row + x < channels;
      target_turned[x * kPitch + y] = below ? goal[(column + y) * channels + row + x] : 0.f;
    }
  }
  __syncthreads();  // turned and target_turned are written, and all of the tile is read
  float sum = 0.f;
#pragma unroll
  for (int k = 0; k < kTile / kWarps; ++k) {
    const int y = first + k * kWarps;
    float v = diagonal && y > x ? turned[y * kPitch + x] : upper[k];
    if constexpr (HasTarget) {
      const Differences<float> d = differences_of(v, goals[k], target_turned[y * kPitch + x]);
      sum = multiply_add(d.upper, d.upper, sum);
      if (!diagonal) sum = multiply_add(d.lower, d.lower, sum);
      v = symmetric_part(d);
    }
    upper[k] = v;
    if ((HasTarget || diagonal) && row + y < channels && column + x < channels) {
      own[(row + y) * channels + column + x] = v;
    }
  }
  __syncthreads();  // turned is read, and may be written again
#pragma unroll
  for (int k = 0; k < kTile / kWarps; ++k) turned[x * kPitch + first + k * kWarps] = upper[k];
  __syncthreads();  // turned is written
  if (!diagonal) {
#pragma unroll
    for (int k = 0; k < kTile / kWarps; ++k) {
      const int y = first + k * kWarps;
      if (column + y < channels && row + x < channels) {
        own[(column + y) * channels + row + x] = turned[y * kPitch + x];
      }
    }
  }
  if constexpr (HasTarget) {
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  }
}

// squares [N] from sums [N, pairs]. Grid: matrices.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_sums(const T* __restrict__ sums, T* __restrict__ squares, const int pairs) {
  SIMT_SHARED(float, slots, kWarps);
  const T* own = sums + static_cast<int64_t>(blockIdx.x) * pairs;
  float sum = 0.f;
  for (int p = threadIdx.x; p < pairs; p += kThreads) sum += own[p];
  sum = block_sum(sum, slots);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

}  // namespace whylight::gram
