// What every operator checks of its arguments, one fact per line with the operator's name in front; knows no operator.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <string>

namespace whylight {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16 ||
         type == ScalarType::Double;
}

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + "]";
}

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(is_floating(tensor.scalar_type()), op, ": ", name,
                  " must be float16, bfloat16, float32 or float64, got ",
                  torch::headeronly::toString(tensor.scalar_type()));
}

inline void check_same_device(const char* op, const Tensor& first, const char* name, const Tensor& second) {
  STD_TORCH_CHECK(first.device() == second.device(), op, ": ", name, " must be on the device of the first argument");
}

}  // namespace whylight
