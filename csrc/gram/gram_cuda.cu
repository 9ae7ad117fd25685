// gram_mirror_ and gram_difference_ on CUDA: arguments to raw pointers, a workspace, the current stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../common/stream.h"
#include "gram_args.h"
#include "gram_launch.cuh"

namespace whylight::gram {
namespace {

Shape checked_shape(const char* op, const Tensor& gram, const Arguments& arguments) {
  STD_TORCH_CHECK(gram.scalar_type() == ScalarType::Float, op, ": the CUDA kernels take float32, not float64");
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  STD_TORCH_CHECK(arguments.channels <= int64_t{1} << 20, op, ": too many channels for the CUDA kernels");
  const Shape shape = shape_of_matrices(static_cast<int>(arguments.channels), arguments.target_stride);
  STD_TORCH_CHECK(shape.pairs == 0 || arguments.matrices <= kMost / shape.pairs, op,
                  ": too many matrices for one call");
  return shape;
}

void gram_mirror_cuda(const Tensor& gram) {
  const Arguments arguments = check_arguments("gram_mirror_", gram);
  const torch::stable::accelerator::DeviceGuard guard(gram.get_device_index());
  const Shape shape = checked_shape("gram_mirror_", gram, arguments);
  if (arguments.matrices == 0 || arguments.channels == 0) return;
  mirror(shape, arguments.matrices, gram.mutable_data_ptr<float>(), current_stream(gram.get_device_index()));
  check_launch("gram_mirror_");
}

Tensor gram_difference_cuda(const Tensor& gram, const Tensor& target) {
  const Arguments arguments = check_arguments("gram_difference_", gram, target);
  const torch::stable::accelerator::DeviceGuard guard(gram.get_device_index());
  const Shape shape = checked_shape("gram_difference_", gram, arguments);
  const Tensor laid = torch::stable::contiguous(target);
  Tensor squares = torch::stable::new_empty(gram, {arguments.matrices}, ScalarType::Float);
  if (arguments.matrices == 0) return squares;
  if (arguments.channels == 0) return torch::stable::fill_(squares, 0);
  const Tensor sums = torch::stable::new_empty(gram, {arguments.matrices, shape.pairs}, ScalarType::Float);
  difference(shape, arguments.matrices, gram.mutable_data_ptr<float>(), laid.const_data_ptr<float>(),
             sums.mutable_data_ptr<float>(), squares.mutable_data_ptr<float>(),
             current_stream(gram.get_device_index()));
  check_launch("gram_difference_");
  return squares;
}

}  // namespace
}  // namespace whylight::gram

STABLE_TORCH_LIBRARY_IMPL(whylight, CUDA, m) {
  m.impl("gram_mirror_", TORCH_BOX(&whylight::gram::gram_mirror_cuda));
  m.impl("gram_difference_", TORCH_BOX(&whylight::gram::gram_difference_cuda));
}
