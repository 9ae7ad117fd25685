// The two launches of cam_render and cam_overlay; knows raw pointers, not torch.
#pragma once

#include "cam_render_kernels.cuh"

namespace whylight::cam_render {

inline int64_t blocks_of(const Work& work) {
  const int64_t column_tiles = (work.columns.out + kThreads - 1) / kThreads;
  return column_tiles * ((work.rows.out + kRows - 1) / kRows);
}

// Draws `count` maps, at least 1. Workspaces: prepared [count, h, w], normalisation [count]. Both grids must fit in 31
// bits.
template <class T, class Out>
void render(const Work& work, int64_t count, const T* maps, float* prepared, Normalisation<float>* normalisation,
            float* low, float* high, Out* values, const uint8_t* colours, const Pictures& pictures,
            cudaStream_t stream) {
  launch(prepare<T>, dim3(static_cast<unsigned>(count)), dim3(kThreads), stream, maps, prepared, low, high,
         normalisation, work);
  const float* source = prepared;
  const Normalisation<float>* ranges = normalisation;
  launch(draw<Out>, dim3(static_cast<unsigned>(count * blocks_of(work))), dim3(kThreads), stream, source, ranges,
         values, colours, pictures, work);
}

}  // namespace whylight::cam_render
