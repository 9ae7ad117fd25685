// How the planes of a [N, C, *S] tensor lie in memory, in three strides; knows no operator.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

namespace whylight {

enum class Order {
  kPlanar,        // the positions of a channel are neighbours: contiguous
  kChannelsLast,  // the channels of a position are neighbours
  kConstant,      // one value for all positions: expanded over space, or a single position
};

struct Planes {
  Order order;
  int64_t batch_stride;
  int64_t channel_stride;
  int64_t position_stride;
};

// The strides if one stride walks all of space, else nothing.
inline std::optional<Planes> planes_of(const torch::stable::Tensor& tensor) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  int64_t position_stride = 0;
  int64_t reach = 0;
  bool constant = true;
  for (int64_t d = tensor.dim() - 1; d >= 2; --d) {
    if (sizes[d] == 1) continue;
    if (constant) {
      position_stride = strides[d];
    } else if (strides[d] != reach) {
      return std::nullopt;
    }
    constant = false;
    reach = strides[d] * sizes[d];
  }
  Planes planes{Order::kPlanar, strides[0], strides[1], position_stride};
  if (position_stride == 0) {
    planes.order = Order::kConstant;
  } else if (position_stride == 1) {
    planes.order = Order::kPlanar;
  } else if (strides[1] == 1) {
    planes.order = Order::kChannelsLast;
  } else {
    return std::nullopt;
  }
  return planes;
}

}  // namespace whylight
