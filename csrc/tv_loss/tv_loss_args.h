// The arguments of tv_loss and its gradients, checked and laid out, for the CPU and the CUDA operators alike; computes
// nothing.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "../common/checks.h"
#include "tv_loss_layout.h"

namespace whylight::tv_loss {

struct Arguments {
  Tensor image;
  Layout layout;
  bool channels_last;
  bool empty;
};

// How the image lies; nothing where its rows are not runs of neighbours.
inline std::optional<Arguments> lay_out(const Tensor& image) {
  const int64_t n = image.size(0), c = image.size(1);
  int64_t h = image.size(2), w = image.size(3), down = image.stride(2), across = image.stride(3);
  const auto is_last = [&](int64_t stride) { return image.stride(1) == 1 && stride == c; };
  if (w == 1 && (down == 1 || is_last(down))) {  // a column is a row: total variation does not tell one from the other
    std::swap(h, w);
    std::swap(down, across);
  }
  if (w == 1 || across == 1) {
    return Arguments{
        image, {n, c, h, w, 1, {image.stride(0), image.stride(1), down}, {c * h * w, h * w, w}}, false, false};
  }
  if (is_last(across)) {
    return Arguments{image, {n, 1, h, w * c, c, {image.stride(0), 0, down}, {c * h * w, 0, w * c}}, true, false};
  }
  return std::nullopt;
}

inline Arguments check_arguments(const char* op, const Tensor& image, double beta, double eps) {
  STD_TORCH_CHECK(image.dim() == 4, op, ": image must be [N, C, H, W], got ", image.dim(), "-D");
  check_floating(op, "image", image);
  STD_TORCH_CHECK(beta >= 1 && beta <= kLargestBeta, op, ": beta must be from 1 to ", kLargestBeta, ", got ", beta);
  STD_TORCH_CHECK(eps >= 0 && std::isfinite(eps), op, ": eps must be finite and not negative, got ", eps);
  if (image.size(0) == 0 || image.size(1) == 0 || image.size(2) == 0 || image.size(3) == 0) {
    return {image, {}, false, true};
  }
  const std::optional<Arguments> arguments = lay_out(image);
  STD_TORCH_CHECK(arguments, op, ": image must be contiguous or channels_last, or a part of such a one, got strides (",
                  image.stride(0), ", ", image.stride(1), ", ", image.stride(2), ", ", image.stride(3), ") for ",
                  shape_of(image), "; image.contiguous() is");
  return *arguments;
}

inline void check_upstream(const Tensor& upstream, const Arguments& arguments, ScalarType type) {
  STD_TORCH_CHECK(upstream.dim() == 1 && upstream.size(0) == arguments.image.size(0) && upstream.scalar_type() == type,
                  "tv_loss_backward: the gradient of the loss must be [", arguments.image.size(0), "] ",
                  torch::headeronly::toString(type), ", got ", shape_of(upstream), " ",
                  torch::headeronly::toString(upstream.scalar_type()));
  check_same_device("tv_loss_backward", arguments.image, "the gradient of the loss", upstream);
}

// float64 for float64, else float32.
inline ScalarType loss_type(const Tensor& image) {
  return image.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor empty_loss(const Tensor& image) {
  return torch::stable::new_empty(image, {image.size(0)}, loss_type(image));
}

// Dense, in the image's order.
inline Tensor empty_gradient(const Arguments& arguments) {
  const Tensor& image = arguments.image;
  const std::vector<int64_t> shape{image.size(0), image.size(1), image.size(2), image.size(3)};
  return torch::stable::empty(shape, image.scalar_type(), std::nullopt, image.device(), std::nullopt,
                              arguments.channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                                      : torch::headeronly::MemoryFormat::Contiguous);
}

}  // namespace whylight::tv_loss
