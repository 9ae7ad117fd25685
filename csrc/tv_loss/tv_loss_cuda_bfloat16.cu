// The kernels of tv_loss for bfloat16.
#include "tv_loss_launch.cuh"

namespace whylight::tv_loss {

template void walk_all<__nv_bfloat16>(const Problem&, const __nv_bfloat16*, __nv_bfloat16*, cudaStream_t);

}  // namespace whylight::tv_loss
