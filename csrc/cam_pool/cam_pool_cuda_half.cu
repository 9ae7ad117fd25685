// The kernels of cam_pool for half.
#include "cam_pool_launch.cuh"

namespace whylight::cam_pool {

template void pool<__half>(const Problem&, const __half*, const __half*, float*, float*, float*, cudaStream_t);

}  // namespace whylight::cam_pool
