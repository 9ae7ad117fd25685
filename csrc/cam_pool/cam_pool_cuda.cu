// cam_pool on CUDA: arguments to a problem, workspaces, the current stream. The kernels of each type are compiled in a
// file of their own, side by side.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../common/stream.h"
#include "cam_pool_args.h"
#include "cam_pool_launch.cuh"

namespace whylight::cam_pool {

extern template void pool<float>(const Problem&, const float*, const float*, float*, float*, float*, cudaStream_t);
extern template void pool<__half>(const Problem&, const __half*, const __half*, float*, float*, float*, cudaStream_t);
extern template void pool<__nv_bfloat16>(const Problem&, const __nv_bfloat16*, const __nv_bfloat16*, float*, float*,
                                         float*, cudaStream_t);

namespace {

Strides strides_of(const Planes& planes) {
  return {planes.batch_stride, planes.channel_stride, planes.position_stride};
}

Problem problem_of(const Arguments& arguments, const std::vector<Group>& groups, bool one_each, Scheme scheme,
                   double eps) {
  Problem problem{
      {static_cast<int>(arguments.channels), static_cast<int>(arguments.positions), splits_of(arguments.channels),
       strides_of(arguments.activation_planes), strides_of(arguments.gradient_planes), static_cast<float>(eps)},
      arguments.activation_planes.order == Order::kChannelsLast,
      scheme,
      arguments.targets,
      one_each,
      {},
      {}};
  if (!one_each) {
    for (size_t i = 0; i + 1 < groups.size(); ++i) problem.inputs.push_back(static_cast<int32_t>(groups[i].input));
    for (const Group& group : groups) problem.firsts.push_back(static_cast<int32_t>(group.first));
  }
  return problem;
}

Tensor cam_pool_cuda(const Tensor& activations, const Tensor& gradients, int64_t scheme,
                     std::optional<std::vector<int64_t>> rows, double eps) {
  Arguments arguments = check_arguments(activations, gradients, scheme);
  STD_TORCH_CHECK(activations.scalar_type() != ScalarType::Double && gradients.scalar_type() != ScalarType::Double,
                  "cam_pool: the CUDA kernels take float16, bfloat16 and float32, not float64");
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  STD_TORCH_CHECK(arguments.inputs <= kMost && arguments.targets <= kMost && arguments.channels <= kMost - kSplit &&
                      arguments.positions <= kMost - kThreads,
                  "cam_pool: a dimension is too large for the CUDA kernels");
  const std::vector<Group> groups = group_targets(arguments, rows);
  const torch::stable::accelerator::DeviceGuard guard(activations.get_device_index());
  if (activations.scalar_type() != gradients.scalar_type()) {
    arguments.activations = torch::stable::to(activations, ScalarType::Float);
    arguments.gradients = torch::stable::to(gradients, ScalarType::Float);
  }
  lay_out(arguments);
  const auto empty = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(arguments.activations, std::vector<int64_t>(shape), ScalarType::Float);
  };
  Tensor result = torch::stable::new_empty(arguments.activations, arguments.output_shape, ScalarType::Float);
  if (arguments.targets == 0 || arguments.positions == 0) return result;
  if (arguments.channels == 0) return torch::stable::fill_(result, 0);
  const Problem problem = problem_of(arguments, groups, !rows.has_value(), static_cast<Scheme>(scheme), eps);
  const Tensor partial = empty({arguments.targets, problem.shape.splits, arguments.positions});
  const Tensor weights = empty({weighs_apart(problem) ? arguments.targets : 0, arguments.channels});
  const cudaStream_t stream = current_stream(activations.get_device_index());
  const auto run = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    pool<T>(problem, static_cast<const T*>(arguments.activations.const_data_ptr()),
            static_cast<const T*>(arguments.gradients.const_data_ptr()), weights.mutable_data_ptr<float>(),
            partial.mutable_data_ptr<float>(), result.mutable_data_ptr<float>(), stream);
  };
  switch (arguments.activations.scalar_type()) {
    case ScalarType::Half:
      run(static_cast<__half*>(nullptr));
      break;
    case ScalarType::BFloat16:
      run(static_cast<__nv_bfloat16*>(nullptr));
      break;
    default:
      run(static_cast<float*>(nullptr));
  }
  check_launch("cam_pool");
  return result;
}

}  // namespace
}  // namespace whylight::cam_pool

STABLE_TORCH_LIBRARY_IMPL(whylight, CUDA, m) {
  m.impl("cam_pool", TORCH_BOX(&whylight::cam_pool::cam_pool_cuda));
}
