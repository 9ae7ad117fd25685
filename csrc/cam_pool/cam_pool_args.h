// The arguments of cam_pool, checked and laid out, for the CPU and the CUDA operator alike; computes nothing.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "../common/checks.h"
#include "cam_pool_work.h"

namespace whylight::cam_pool {

struct Arguments {
  Tensor activations;
  Tensor gradients;
  Planes activation_planes;
  Planes gradient_planes;
  int64_t inputs, targets, channels, positions;
  std::vector<int64_t> output_shape;
};

inline Arguments check_arguments(const Tensor& activations, const Tensor& gradients, int64_t scheme) {
  STD_TORCH_CHECK(activations.dim() >= 3 && activations.dim() <= 5,
                  "cam_pool: activations must be [N, C, *S] with 1 to 3 spatial dimensions, got ", activations.dim(),
                  "-D");
  bool agree = gradients.dim() == activations.dim();
  for (int64_t d = 1; agree && d < activations.dim(); ++d) agree = gradients.size(d) == activations.size(d);
  STD_TORCH_CHECK(agree, "cam_pool: gradients ", shape_of(gradients), " must agree with activations ",
                  shape_of(activations), " after the first dimension");
  check_same_device("cam_pool", activations, "gradients", gradients);
  check_floating("cam_pool", "activations", activations);
  check_floating("cam_pool", "gradients", gradients);
  STD_TORCH_CHECK(scheme >= 0 && scheme <= static_cast<int64_t>(Scheme::kHiResCam), "cam_pool: unknown scheme ",
                  scheme);
  Arguments arguments{activations,       gradients,           {}, {}, activations.size(0),
                      gradients.size(0), activations.size(1), 1,  {}};
  arguments.output_shape.push_back(gradients.size(0));
  for (int64_t d = 2; d < activations.dim(); ++d) {
    arguments.positions *= activations.size(d);
    arguments.output_shape.push_back(activations.size(d));
  }
  return arguments;
}

// The targets grouped by input, and one group more that ends the last.
inline std::vector<Group> group_targets(const Arguments& arguments, const std::optional<std::vector<int64_t>>& rows) {
  std::vector<Group> groups;
  if (!rows) {
    STD_TORCH_CHECK(arguments.inputs == arguments.targets, "cam_pool: ", arguments.targets, " targets for ",
                    arguments.inputs, " inputs need rows, which say whose each one is");
    groups.reserve(arguments.targets + 1);
    for (int64_t m = 0; m < arguments.targets; ++m) groups.push_back({m, m});
  } else {
    const auto count = static_cast<int64_t>(rows->size());
    STD_TORCH_CHECK(count == arguments.targets, "cam_pool: rows must have one entry per target: ", count, " for ",
                    arguments.targets);
    for (int64_t m = 0; m < count; ++m) {
      const int64_t row = (*rows)[m];
      STD_TORCH_CHECK(row >= 0 && row < arguments.inputs, "cam_pool: rows must be from 0 to ", arguments.inputs - 1,
                      ", got ", row);
      STD_TORCH_CHECK(groups.empty() || row >= groups.back().input, "cam_pool: rows must not decrease, got ", row,
                      " after ", groups.empty() ? 0 : groups.back().input);
      if (groups.empty() || groups.back().input != row) groups.push_back({row, m});
    }
  }
  groups.push_back({0, arguments.targets});
  return groups;
}

// Describes how the tensors lie. A kernel wants both in one order; a copy is made of what has another or none.
inline void lay_out(Arguments& arguments) {
  auto a = planes_of(arguments.activations);
  if (a && a->order == Order::kConstant && arguments.positions == 1) {
    a->position_stride = 1;
    a->order = a->channel_stride == 1 ? Order::kChannelsLast : Order::kPlanar;
  }
  if (!a || a->order == Order::kConstant) {
    arguments.activations = torch::stable::contiguous(arguments.activations);
    a = Planes{Order::kPlanar, arguments.channels * arguments.positions, arguments.positions, 1};
  }
  auto g = planes_of(arguments.gradients);
  if (!g || (g->order != Order::kConstant && g->order != a->order)) {
    if (a->order == Order::kChannelsLast && arguments.gradients.dim() == 4) {
      arguments.gradients =
          torch::stable::contiguous(arguments.gradients, torch::headeronly::MemoryFormat::ChannelsLast);
      g = Planes{Order::kChannelsLast, arguments.channels * arguments.positions, 1, arguments.channels};
    } else {
      arguments.gradients = torch::stable::contiguous(arguments.gradients);
      g = Planes{Order::kPlanar, arguments.channels * arguments.positions, arguments.positions, 1};
      if (a->order == Order::kChannelsLast) {
        arguments.activations = torch::stable::contiguous(arguments.activations);
        a = g;
      }
    }
  }
  arguments.activation_planes = *a;
  arguments.gradient_planes = *g;
}

}  // namespace whylight::cam_pool
