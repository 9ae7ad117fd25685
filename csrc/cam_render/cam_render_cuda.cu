// cam_render and cam_overlay on CUDA: arguments to raw pointers, workspaces, the current stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <vector>

#include "../common/stream.h"
#include "cam_render_args.h"
#include "cam_render_launch.cuh"

namespace whylight::cam_render {
namespace {

Results run(const char* op, const Arguments& arguments, Output output, const uint8_t* colours,
            const Pictures& pictures) {
  const Tensor& maps = arguments.maps;
  const Work work{arguments.rows,
                  arguments.columns,
                  arguments.rectify,
                  arguments.is_signed,
                  arguments.before,
                  arguments.after,
                  static_cast<float>(arguments.eps)};
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  STD_TORCH_CHECK(arguments.count <= kMost / blocks_of(work), op, ": too many maps for one call");
  const auto empty = [&](const std::vector<int64_t>& shape, ScalarType type) {
    return torch::stable::new_empty(maps, shape, type);
  };
  std::vector<int64_t> shape{arguments.count, arguments.rows.out, arguments.columns.out};
  if (colours) shape.push_back(3);
  Tensor values = empty(shape, type_of(output));
  Tensor low = empty({arguments.count}, ScalarType::Float);
  Tensor high = empty({arguments.count}, ScalarType::Float);
  if (arguments.count == 0) return {values, low, high};
  const Tensor prepared = empty({arguments.count, maps.size(1), maps.size(2)}, ScalarType::Float);
  static_assert(sizeof(Normalisation<float>) == 3 * sizeof(float));
  const Tensor normalisation = empty({arguments.count, 3}, ScalarType::Float);
  const cudaStream_t stream = current_stream(maps.get_device_index());
  const auto draw_as = [&](auto* out) {
    render(work, arguments.count, maps.const_data_ptr<float>(), prepared.mutable_data_ptr<float>(),
           static_cast<Normalisation<float>*>(normalisation.mutable_data_ptr()), low.mutable_data_ptr<float>(),
           high.mutable_data_ptr<float>(), out, colours, pictures, stream);
  };
  switch (output) {
    case Output::kHalf:
      draw_as(static_cast<__half*>(values.mutable_data_ptr()));
      break;
    case Output::kByte:
      draw_as(values.mutable_data_ptr<uint8_t>());
      break;
    default:
      draw_as(values.mutable_data_ptr<float>());
  }
  check_launch(op);
  return {values, low, high};
}

void check_single(const char* op, const Tensor& maps, Output output) {
  STD_TORCH_CHECK(maps.scalar_type() != ScalarType::Double && output != Output::kDouble, op,
                  ": the CUDA kernels take float16, bfloat16 and float32, not float64");
}

Results cam_render_cuda(const Tensor& maps, int64_t height, int64_t width, bool rectify, bool is_signed,
                        int64_t normalise, double eps, int64_t interpolation, int64_t dtype) {
  STD_TORCH_CHECK(dtype >= 0 && dtype <= 3, "cam_render: unknown dtype ", dtype);
  const auto output = static_cast<Output>(dtype);
  check_single("cam_render", maps, output);
  const torch::stable::accelerator::DeviceGuard guard(maps.get_device_index());
  const Arguments arguments =
      check_arguments("cam_render", maps, height, width, rectify, is_signed, normalise, eps, interpolation, false);
  return run("cam_render", arguments, output, nullptr, {nullptr, 0, 0, 0, 0, 0});
}

Results cam_overlay_cuda(const Tensor& maps, int64_t height, int64_t width, bool rectify, bool is_signed,
                         int64_t normalise, double eps, int64_t interpolation, const Tensor& colours,
                         std::optional<Tensor> images, double opacity) {
  check_single("cam_overlay", maps, Output::kByte);
  const torch::stable::accelerator::DeviceGuard guard(maps.get_device_index());
  const Arguments arguments =
      check_arguments("cam_overlay", maps, height, width, rectify, is_signed, normalise, eps, interpolation, false);
  check_overlay(arguments, colours, images, opacity);
  const Tensor table = torch::stable::contiguous(colours);
  const Images laid = images_of(images, opacity);
  return run("cam_overlay", arguments, Output::kByte, table.const_data_ptr<uint8_t>(),
             {laid.data, laid.batch, laid.row, laid.column, laid.channel, laid.opacity});
}

}  // namespace
}  // namespace whylight::cam_render

STABLE_TORCH_LIBRARY_IMPL(whylight, CUDA, m) {
  m.impl("cam_render", TORCH_BOX(&whylight::cam_render::cam_render_cuda));
  m.impl("cam_overlay", TORCH_BOX(&whylight::cam_render::cam_overlay_cuda));
}
