// The kernels of tv_loss for float.
#include "tv_loss_launch.cuh"

namespace whylight::tv_loss {

template void walk_all<float>(const Problem&, const float*, float*, cudaStream_t);

}  // namespace whylight::tv_loss
