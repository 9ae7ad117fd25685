// The kernels of tv_loss for half.
#include "tv_loss_launch.cuh"

namespace whylight::tv_loss {

template void walk_all<__half>(const Problem&, const __half*, __half*, cudaStream_t);

}  // namespace whylight::tv_loss
