// The kernels of cam_render and cam_overlay; know raw pointers, neither torch nor how they are launched.
//
// `prepare` reads each map once, at its own size, and finds the range that it will have at full size from the samples
// that can be extreme; `draw` then computes every output sample on its own. No atomics, one writer per element.
#pragma once

#include "../common/simt.h"
#include "cam_render_math.h"

namespace whylight::cam_render {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = 8;  // of a tile that a block draws, each kThreads wide

struct Work {
  Axis rows, columns;
  bool rectify, is_signed, before, after;
  float eps;
};

// Where the pictures lie that a map is laid over; no pictures: `data` is null.
struct Pictures {
  const uint8_t* data;
  int64_t batch, row, column, channel;  // strides
  int32_t opacity;
};

struct Range {
  float low, high;
};

// The range over a block, the same bits in every thread; NaN if any value is. `slots` has 2 * kWarps floats.
__device__ __forceinline__ Range block_range(Range range, float* slots) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    range.low = lower(range.low, __shfl_xor_sync(0xffffffffu, range.low, offset));
    range.high = upper(range.high, __shfl_xor_sync(0xffffffffu, range.high, offset));
  }
  if (threadIdx.x % kWarp == 0) {
    slots[threadIdx.x / kWarp] = range.low;
    slots[kWarps + threadIdx.x / kWarp] = range.high;
  }
  __syncthreads();  // slots is written
  for (int w = 0; w < kWarps; ++w) range = {lower(range.low, slots[w]), upper(range.high, slots[kWarps + w])};
  __syncthreads();  // slots is read, and may be written again
  return range;
}

__device__ __forceinline__ float sample(const float* map, int width, const Position<float>& y,
                                        const Position<float>& x) {
  const float* top = map + y.low * width;
  const float* bottom = map + y.high * width;
  return between(between(top[x.low], top[x.high], x.fraction), between(bottom[x.low], bottom[x.high], x.fraction),
                 y.fraction);
}

// Rectifies and measures a map, normalises it at its own size, and finds the range that it will have at full size.
// `maps` and `prepared` are [M, h, w], the others [M]. Grid: maps.
template <class T>
__global__ void __launch_bounds__(kThreads)
    prepare(const T* __restrict__ maps, float* prepared, float* __restrict__ low, float* __restrict__ high,
            Normalisation<float>* __restrict__ normalisation, const Work work) {
  SIMT_SHARED(float, slots, 2 * kWarps);
  const int64_t m = blockIdx.x;
  const int width = static_cast<int>(work.columns.in), count = static_cast<int>(work.rows.in) * width;
  const T* source = maps + m * count;
  float* map = prepared + m * count;
  const float first = work.rectify ? positive_part(to_float(source[0])) : to_float(source[0]);
  Range range{first, first};
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const float v = work.rectify ? positive_part(to_float(source[i])) : to_float(source[i]);
    range = {lower(range.low, v), upper(range.high, v)};
    map[i] = v;
  }
  range = block_range(range, slots);
  if (threadIdx.x == 0) {
    low[m] = range.low;
    high[m] = range.high;
  }
  if (work.before) {
    const Normalisation<float> n = normalisation_of(range.low, range.high, work.eps, work.is_signed);
    // Each thread normalises what it wrote itself.
    for (int i = threadIdx.x; i < count; i += kThreads) map[i] = normalised(map[i], n);
  }
  if (!work.after) return;  // every thread of the block
  __syncthreads();          // map is written
  const int rows = static_cast<int>(extreme_count(work.rows)), columns = static_cast<int>(extreme_count(work.columns));
  const float corner = sample(map, width, position_of<float>(work.rows, 0), position_of<float>(work.columns, 0));
  range = {corner, corner};
  for (int64_t i = threadIdx.x; i < static_cast<int64_t>(rows) * columns; i += kThreads) {
    const Position<float> y = position_of<float>(work.rows, extreme_at(work.rows, static_cast<uint32_t>(i / columns)));
    const Position<float> x =
        position_of<float>(work.columns, extreme_at(work.columns, static_cast<uint32_t>(i % columns)));
    const float v = sample(map, width, y, x);
    range = {lower(range.low, v), upper(range.high, v)};
  }
  range = block_range(range, slots);
  if (threadIdx.x == 0) normalisation[m] = normalisation_of(range.low, range.high, work.eps, work.is_signed);
}

__device__ __forceinline__ void store(float v, bool, float* out) {
  *out = v;
}
__device__ __forceinline__ void store(float v, bool is_signed, uint8_t* out) {
  *out = static_cast<uint8_t>(quantised(v, is_signed));
}
#if defined(__CUDACC__)
__device__ __forceinline__ void store(float v, bool, __half* out) {
  *out = __float2half_rn(v);
}
#endif

// Draws a tile of kRows rows and kThreads columns, a column per thread: values [M, H, W] of `Out`, or, with `colours`
// [256, 3], bytes [M, H, W, 3]. Grid: maps x tiles of rows x tiles of columns.
template <class Out>
__global__ void __launch_bounds__(kThreads)
    draw(const float* __restrict__ prepared, const Normalisation<float>* __restrict__ normalisation,
         Out* __restrict__ values, const uint8_t* __restrict__ colours, const Pictures pictures, const Work work) {
  SIMT_SHARED(Position<float>, ys, kRows);
  const int height = static_cast<int>(work.rows.out), width = static_cast<int>(work.columns.out);
  const int column_tiles = (width + kThreads - 1) / kThreads, row_tiles = (height + kRows - 1) / kRows;
  const int x = static_cast<int>(blockIdx.x % column_tiles) * kThreads + threadIdx.x;
  const int first = static_cast<int>(blockIdx.x / column_tiles % row_tiles) * kRows;
  const int64_t m = blockIdx.x / column_tiles / row_tiles;
  if (threadIdx.x < kRows && first + static_cast<int>(threadIdx.x) < height) {
    ys[threadIdx.x] = position_of<float>(work.rows, first + threadIdx.x);
  }
  __syncthreads();  // ys is written
  if (x >= width) return;
  const float* map = prepared + m * work.rows.in * work.columns.in;
  const Normalisation<float> n = work.after ? normalisation[m] : Normalisation<float>{0.f, 1.f, 0.f};
  const Position<float> at = position_of<float>(work.columns, x);
  for (int r = 0; r < kRows && first + r < height; ++r) {
    const int y = first + r;
    float v = sample(map, static_cast<int>(work.columns.in), ys[r], at);
    if (work.after) v = normalised(v, n);
    const int64_t index = (m * height + y) * width + x;
    if (!colours) {
      store(v, work.is_signed, values + index);
    } else if constexpr (sizeof(Out) == 1) {
      const uint8_t* paint = colours + 3 * quantised(v, work.is_signed);
      const uint8_t* pixel = pictures.data + m * pictures.batch + y * pictures.row + x * pictures.column;
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        values[3 * index + c] =
            pictures.data ? blended(paint[c], pixel[c * pictures.channel], pictures.opacity) : paint[c];
      }
    }
  }
}

}  // namespace whylight::cam_render
