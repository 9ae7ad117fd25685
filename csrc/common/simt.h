// What a kernel needs of CUDA, so that the same source also runs under the emulator of csrc/tests; knows no operator.
#pragma once

#if defined(__CUDACC__)

#  include <cuda_bf16.h>
#  include <cuda_fp16.h>
#  include <cuda_runtime.h>

#  define SIMT_SHARED(type, name, count) __shared__ type name[count]

namespace whylight {

// A function rather than <<<>>> where it is needed: one place that the emulator can stand in for.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, Arguments... arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
}

__device__ __forceinline__ float to_float(__half v) {
  return __half2float(v);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

}  // namespace whylight

#else
#  include "../tests/simt_emulator.h"
#endif

namespace whylight {

constexpr int kWarp = 32;

__device__ __forceinline__ float to_float(float v) {
  return v;
}

// The sum over a warp, the same bits in every lane.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}

}  // namespace whylight
