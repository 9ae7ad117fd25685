// tv_loss and its gradients on CUDA: arguments to a problem, a workspace, the current stream. The kernels of each type
// are compiled in a file of their own, side by side.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/stream.h"
#include "tv_loss_args.h"
#include "tv_loss_launch.cuh"

namespace whylight::tv_loss {

extern template void walk_all<float>(const Problem&, const float*, float*, cudaStream_t);
extern template void walk_all<__half>(const Problem&, const __half*, __half*, cudaStream_t);
extern template void walk_all<__nv_bfloat16>(const Problem&, const __nv_bfloat16*, __nv_bfloat16*, cudaStream_t);

namespace {

Arguments check_single(const char* op, const Tensor& image, double beta, double eps) {
  STD_TORCH_CHECK(image.scalar_type() != ScalarType::Double, op,
                  ": the CUDA kernels take float16, bfloat16 and float32, not float64");
  return check_arguments(op, image, beta, eps);
}

// Fills in `loss` [N] and `gradient`, the ones that there are.
void run(const char* op, const Arguments& arguments, double beta, double eps, bool isotropic, Tensor* loss,
         Tensor* gradient, const Tensor* upstream) {
  if (arguments.empty) {
    if (loss) torch::stable::zero_(*loss);
    return;
  }
  const Layout& layout = arguments.layout;
  const int64_t tiles = tiles_of(layout).per_image;
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  STD_TORCH_CHECK(layout.images <= kMost / tiles, op, ": too many pixels for one call");
  const Tensor partial =
      torch::stable::new_empty(arguments.image, {loss ? layout.images * tiles : 0}, ScalarType::Float);
  const Problem problem{layout,
                        constants_of<float>(beta, eps),
                        power_of(beta, eps, isotropic),
                        isotropic,
                        upstream ? upstream->const_data_ptr<float>() : nullptr,
                        upstream ? upstream->stride(0) : 0,
                        partial.mutable_data_ptr<float>(),
                        loss ? loss->mutable_data_ptr<float>() : nullptr};
  const cudaStream_t stream = current_stream(arguments.image.get_device_index());
  const auto walk_as = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    walk_all<T>(problem, static_cast<const T*>(arguments.image.const_data_ptr()),
                gradient ? static_cast<T*>(gradient->mutable_data_ptr()) : nullptr, stream);
  };
  switch (arguments.image.scalar_type()) {
    case ScalarType::Half:
      walk_as(static_cast<__half*>(nullptr));
      break;
    case ScalarType::BFloat16:
      walk_as(static_cast<__nv_bfloat16*>(nullptr));
      break;
    default:
      walk_as(static_cast<float*>(nullptr));
  }
  check_launch(op);
}

Tensor tv_loss_cuda(const Tensor& image, double beta, double eps, bool isotropic) {
  const Arguments arguments = check_single("tv_loss", image, beta, eps);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  Tensor loss = empty_loss(image);
  run("tv_loss", arguments, beta, eps, isotropic, &loss, nullptr, nullptr);
  return loss;
}

Tensor tv_loss_backward_cuda(const Tensor& upstream, const Tensor& image, double beta, double eps, bool isotropic) {
  const Arguments arguments = check_single("tv_loss_backward", image, beta, eps);
  check_upstream(upstream, arguments, ScalarType::Float);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  Tensor gradient = empty_gradient(arguments);
  run("tv_loss_backward", arguments, beta, eps, isotropic, nullptr, &gradient, &upstream);
  return gradient;
}

std::tuple<Tensor, Tensor> tv_loss_with_gradient_cuda(const Tensor& image, double beta, double eps, bool isotropic) {
  const Arguments arguments = check_single("tv_loss_with_gradient", image, beta, eps);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  Tensor loss = empty_loss(image), gradient = empty_gradient(arguments);
  run("tv_loss_with_gradient", arguments, beta, eps, isotropic, &loss, &gradient, nullptr);
  return {loss, gradient};
}

}  // namespace
}  // namespace whylight::tv_loss

STABLE_TORCH_LIBRARY_IMPL(whylight, CUDA, m) {
  m.impl("tv_loss", TORCH_BOX(&whylight::tv_loss::tv_loss_cuda));
  m.impl("tv_loss_raw", TORCH_BOX(&whylight::tv_loss::tv_loss_cuda));
  m.impl("tv_loss_backward", TORCH_BOX(&whylight::tv_loss::tv_loss_backward_cuda));
  m.impl("tv_loss_with_gradient", TORCH_BOX(&whylight::tv_loss::tv_loss_with_gradient_cuda));
}
