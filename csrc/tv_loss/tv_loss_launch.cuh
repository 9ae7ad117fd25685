// Which kernels of tv_loss run, on what grids; knows raw pointers, not torch.
#pragma once

#include "../common/dispatch.h"
#include "tv_loss_kernels.cuh"

namespace whylight::tv_loss {

// One call: at least one image of at least one pixel. What is not asked for is null.
struct Problem {
  Layout layout;
  Constants<float> constants;
  Power power;
  bool isotropic;
  const float* upstream;  // [images], or null for 1
  int64_t upstream_stride;
  float* partial;  // workspace [images, tiles_of(layout).per_image], for losses
  float* losses;   // [images]
};

inline Tiles tiles_of(const Layout& layout) {
  Tiles tiles{(layout.rows + kRows - 1) / kRows, (layout.length + kThreads - 1) / kThreads, 0, 0};
  tiles.per_plane = tiles.rows * tiles.columns;
  tiles.per_image = tiles.per_plane * layout.planes;
  return tiles;
}

template <Power P, bool kIsotropic, class T>
void walk_either(const Problem& problem, const T* images, T* gradients, cudaStream_t stream) {
  const Tiles tiles = tiles_of(problem.layout);
  auto kernel = walk<P, kIsotropic, true, false, T>;
  if (gradients) kernel = problem.losses ? walk<P, kIsotropic, true, true, T> : walk<P, kIsotropic, false, true, T>;
  launch(kernel, dim3(static_cast<unsigned>(problem.layout.images * tiles.per_image)), dim3(kThreads), stream, images,
         gradients, problem.partial, problem.upstream, problem.upstream_stride, problem.layout, tiles,
         problem.constants);
}

// Computes the losses, the gradients (null: not) or both. The grid must fit in 31 bits.
template <class T>
void walk_all(const Problem& problem, const T* images, T* gradients, cudaStream_t stream) {
  dispatch<Power, Power::kSquare, Power::kFirst, Power::kGeneral>(problem.power, [&](auto power) {
    if (problem.isotropic || power() == Power::kSquare) {
      walk_either<power(), true>(problem, images, gradients, stream);
    } else {
      walk_either<power(), false>(problem, images, gradients, stream);
    }
  });
  if (!problem.losses) return;
  const float* partial = problem.partial;
  launch(finish<float>, dim3(static_cast<unsigned>(problem.layout.images)), dim3(kThreads), stream, partial,
         problem.losses, tiles_of(problem.layout).per_image);
}

}  // namespace whylight::tv_loss
