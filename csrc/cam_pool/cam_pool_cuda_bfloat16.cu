// The kernels of cam_pool for bfloat16.
#include "cam_pool_launch.cuh"

namespace whylight::cam_pool {

template void pool<__nv_bfloat16>(const Problem&, const __nv_bfloat16*, const __nv_bfloat16*, float*, float*, float*,
                                  cudaStream_t);

}  // namespace whylight::cam_pool
