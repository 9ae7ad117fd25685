// The launches that follow the GEMM of a Gram matrix; knows raw pointers, not torch.
#pragma once

#include "gram_kernels.cuh"

namespace whylight::gram {

inline Shape shape_of_matrices(int channels, int64_t target_stride) {
  const int tiles = (channels + kTile - 1) / kTile;
  return {channels, tiles, static_cast<int>(static_cast<int64_t>(tiles) * (tiles + 1) / 2), target_stride};
}

// Mirrors `matrices` matrices, at least 1 of at least 1 channel. The grid must fit in 31 bits.
inline void mirror(const Shape& shape, int64_t matrices, float* gram, cudaStream_t stream) {
  launch(finish_tiles<false>, dim3(static_cast<unsigned>(matrices * shape.pairs)), dim3(kThreads), stream, gram,
         static_cast<const float*>(nullptr), static_cast<float*>(nullptr), shape);
}

// The same with targets, and squares [matrices]. Workspace: sums [matrices, pairs].
inline void difference(const Shape& shape, int64_t matrices, float* gram, const float* target, float* sums,
                       float* squares, cudaStream_t stream) {
  launch(finish_tiles<true>, dim3(static_cast<unsigned>(matrices * shape.pairs)), dim3(kThreads), stream, gram, target,
         sums, shape);
  launch(add_sums<float>, dim3(static_cast<unsigned>(matrices)), dim3(kThreads), stream,
         static_cast<const float*>(sums), squares, shape.pairs);
}

}  // namespace whylight::gram
