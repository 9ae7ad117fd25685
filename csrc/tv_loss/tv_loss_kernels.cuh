// The kernels of tv_loss and its gradients; know raw pointers and strides, neither torch nor how they are launched.
//
// `walk` computes a tile of an image per block, each thread marching down a column, and writes one partial sum per
// block, which `finish` adds in a fixed order. A gradient is gathered from fluxes: no atomics, one writer per element,
// no return before a barrier, no word between blocks. Tiles depend on the shape of an image alone.
#pragma once

#include "../common/simt.h"
#include "tv_loss_layout.h"
#include "tv_loss_math.h"

namespace whylight::tv_loss {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = 16;  // of a tile, which is kThreads wide; a gradient computes one more

struct Tiles {
  int64_t rows, columns, per_plane, per_image;
};

__device__ __forceinline__ void store(float* target, float v) {
  *target = v;
}
#if defined(__CUDACC__)
__device__ __forceinline__ void store(__half* target, float v) {
  *target = __float2half_rn(v);
}
__device__ __forceinline__ void store(__nv_bfloat16* target, float v) {
  *target = __float2bfloat16_rn(v);
}
#endif

// The sum over a block, in its first thread. `slots` has kWarps floats.
__device__ __forceinline__ float block_sum(float v, float* slots) {
  v = warp_sum(v);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
  __syncthreads();  // slots is written
  v = 0.f;
  if (threadIdx.x == 0) {
    for (int w = 0; w < kWarps; ++w) v += slots[w];
  }
  return v;
}

// The pixel at column x of a row, whose own value is `here`. `below` is the row below, or null.
template <Power P, bool kIsotropic, class T>
__device__ __forceinline__ Pixel<float> pixel_at(const T* __restrict__ row, const T* __restrict__ below, int64_t x,
                                                 float here, float beneath, const Layout& layout,
                                                 const Constants<float>& constants) {
  const float dx = x + layout.step < layout.length ? to_float(row[x + layout.step]) - here : 0.f;
  const float dy = below ? beneath - here : 0.f;
  return pixel_of<P, kIsotropic>(dx, dy, constants);
}

// Grid: images x planes x tiles. `upstream`: gradients of the losses [images], or null for 1.
template <Power P, bool kIsotropic, bool kLoss, bool kGradient, class T>
__global__ void __launch_bounds__(kThreads)
    walk(const T* __restrict__ images, T* __restrict__ gradients, float* __restrict__ partial,
         const float* __restrict__ upstream, const int64_t upstream_stride, const Layout layout, const Tiles tiles,
         const Constants<float> constants) {
  SIMT_SHARED(float, slots, kWarps);
  SIMT_SHARED(float, fluxes, 2 * kThreads);
  const int64_t block = blockIdx.x;
  const int64_t image = block / tiles.per_image, plane = block % tiles.per_image / tiles.per_plane;
  const int64_t tile = block % tiles.per_plane;
  const int64_t x = tile % tiles.columns * kThreads + threadIdx.x;
  const int64_t begin = tile / tiles.columns * kRows;
  const int64_t end = begin + kRows < layout.rows ? begin + kRows : layout.rows;
  const bool inside = x < layout.length;
  const T* source = images + image * layout.source.image + plane * layout.source.plane;
  const T* row = source + begin * layout.source.row;
  float sum = 0.f, above = 0.f;  // above: the flux out of the pixel above
  float here = inside ? to_float(row[x]) : 0.f;
  if (kGradient && inside && begin > 0) {
    const T* before = row - layout.source.row;
    above = pixel_at<P, kIsotropic>(before, row, x, to_float(before[x]), here, layout, constants).down;
  }
  const float scale = kGradient && upstream ? upstream[image * upstream_stride] : 1.f;
#pragma unroll 2
  for (int64_t y = begin; y < end; ++y) {
    const T* below = y + 1 < layout.rows ? row + layout.source.row : nullptr;
    const float beneath = inside && below ? to_float(below[x]) : 0.f;
    Pixel<float> pixel{0.f, 0.f, 0.f};
    if (inside) pixel = pixel_at<P, kIsotropic>(row, below, x, here, beneath, layout, constants);
    if (kLoss) sum += pixel.value;
    if constexpr (kGradient) {
      float left = 0.f;
      if constexpr (P == Power::kGeneral) {
        // A power costs more than a barrier: the neighbour's flux is the neighbour's to compute, if it is of this
        // block.
        float* own = fluxes + (y % 2) * kThreads;
        own[threadIdx.x] = pixel.across;
        __syncthreads();  // this row's half of fluxes is written; the other half's readers are past the last barrier
        if (static_cast<int64_t>(threadIdx.x) >= layout.step) left = own[threadIdx.x - layout.step];
      }
      const bool alone = P != Power::kGeneral || static_cast<int64_t>(threadIdx.x) < layout.step;
      if (inside && alone && x >= layout.step) {
        const int64_t other = x - layout.step;
        const float beneath_other = below ? to_float(below[other]) : 0.f;
        left =
            pixel_at<P, kIsotropic>(row, below, other, to_float(row[other]), beneath_other, layout, constants).across;
      }
      if (inside) {
        const Strides& to = layout.gradient;
        store(gradients + image * to.image + plane * to.plane + y * to.row + x,
              scale * ((left - pixel.across) + (above - pixel.down)));
      }
      above = pixel.down;
    }
    here = beneath;
    row = below;
  }
  if constexpr (kLoss) {
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0) partial[block] = sum;
  }
}

// Adds the partial sums of each image, `count` of them. Grid: images.
template <class Sum>
__global__ void __launch_bounds__(kThreads)
    finish(const Sum* __restrict__ partial, Sum* __restrict__ losses, const int64_t count) {
  SIMT_SHARED(float, slots, kWarps);
  Sum sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[blockIdx.x * count + i];
  sum = block_sum(sum, slots);
  if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}

}  // namespace whylight::tv_loss
