// The kernels of cam_pool for float.
#include "cam_pool_launch.cuh"

namespace whylight::cam_pool {

template void pool<float>(const Problem&, const float*, const float*, float*, float*, float*, cudaStream_t);

}  // namespace whylight::cam_pool
