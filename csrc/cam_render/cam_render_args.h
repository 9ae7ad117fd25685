// The arguments of cam_render and cam_overlay, checked, for the CPU and the CUDA operators alike; computes nothing.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "../common/checks.h"
#include "cam_render_math.h"

namespace whylight::cam_render {

using Results = std::tuple<Tensor, Tensor, Tensor>;

// dtype as the schema numbers it.
enum class Output : int { kFloat, kHalf, kByte, kDouble };

struct Arguments {
  Tensor maps;  // [M, h, w], contiguous, in the type that is computed in
  int64_t count;
  Axis rows, columns;
  bool rectify, is_signed, before, after;
  double eps;
};

inline ScalarType type_of(Output output) {
  switch (output) {
    case Output::kFloat:
      return ScalarType::Float;
    case Output::kHalf:
      return ScalarType::Half;
    case Output::kByte:
      return ScalarType::Byte;
    default:
      return ScalarType::Double;
  }
}

// `wide`: whether to compute in double precision even where the maps are not.
inline Arguments check_arguments(const char* op, const Tensor& maps, int64_t height, int64_t width, bool rectify,
                                 bool is_signed, int64_t normalise, double eps, int64_t interpolation, bool wide) {
  STD_TORCH_CHECK(maps.dim() == 3, op, ": maps must be [M, h, w], got ", maps.dim(), "-D");
  check_floating(op, "maps", maps);
  STD_TORCH_CHECK(maps.size(1) > 0 && maps.size(2) > 0, op, ": maps must not be empty, got ", shape_of(maps));
  STD_TORCH_CHECK(height > 0 && width > 0, op, ": size must be positive, got (", height, ", ", width, ")");
  STD_TORCH_CHECK(
      height <= kLongestSide && width <= kLongestSide && maps.size(1) <= kLongestSide && maps.size(2) <= kLongestSide,
      op, ": no side may exceed ", kLongestSide, ", got ", shape_of(maps), " and (", height, ", ", width, ")");
  STD_TORCH_CHECK(normalise >= 0 && normalise <= 3, op, ": unknown normalise ", normalise);
  STD_TORCH_CHECK(interpolation >= 0 && interpolation <= 2, op, ": unknown interpolation ", interpolation);
  const auto kind = static_cast<Interpolation>(interpolation);
  const ScalarType type = wide || maps.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor computed = maps.scalar_type() == type ? maps : torch::stable::to(maps, type);
  return {torch::stable::contiguous(computed),
          maps.size(0),
          {static_cast<uint32_t>(maps.size(1)), static_cast<uint32_t>(height), kind},
          {static_cast<uint32_t>(maps.size(2)), static_cast<uint32_t>(width), kind},
          rectify,
          is_signed,
          (normalise & 1) != 0,
          (normalise & 2) != 0,
          eps};
}

inline void check_overlay(const Arguments& arguments, const Tensor& colours, const std::optional<Tensor>& images,
                          double opacity) {
  STD_TORCH_CHECK(
      colours.dim() == 2 && colours.size(0) == 256 && colours.size(1) == 3 && colours.scalar_type() == ScalarType::Byte,
      "cam_overlay: colours must be [256, 3] uint8, got ", shape_of(colours), " ",
      torch::headeronly::toString(colours.scalar_type()));
  check_same_device("cam_overlay", arguments.maps, "colours", colours);
  STD_TORCH_CHECK(opacity >= 0 && opacity <= 1, "cam_overlay: opacity must be from 0 to 1, got ", opacity);
  if (!images) return;
  STD_TORCH_CHECK(
      images->dim() == 4 && images->size(0) == arguments.count && images->size(1) == arguments.rows.out &&
          images->size(2) == arguments.columns.out && images->size(3) == 3 && images->scalar_type() == ScalarType::Byte,
      "cam_overlay: images must be [", arguments.count, ", ", arguments.rows.out, ", ", arguments.columns.out,
      ", 3] uint8, got ", shape_of(*images), " ", torch::headeronly::toString(images->scalar_type()));
  check_same_device("cam_overlay", arguments.maps, "images", *images);
}

// Where the pictures lie that a map is laid over; no pictures: `data` is null.
struct Images {
  const uint8_t* data;
  int64_t batch, row, column, channel;  // strides
  int32_t opacity;
};

inline Images images_of(const std::optional<Tensor>& images, double opacity) {
  if (!images) return {nullptr, 0, 0, 0, 0, kOpaque};
  return {static_cast<const uint8_t*>(images->const_data_ptr()),
          images->stride(0),
          images->stride(1),
          images->stride(2),
          images->stride(3),
          static_cast<int32_t>(opacity * kOpaque + 0.5)};
}

}  // namespace whylight::cam_render
