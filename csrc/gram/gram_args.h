// The arguments of gram_mirror_ and gram_difference_, checked, for the CPU and the CUDA operator alike; computes
// nothing.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "../common/checks.h"

namespace whylight::gram {

struct Arguments {
  int64_t matrices, channels;
  int64_t target_stride;  // from one matrix's target to the next: 0 if they share one
};

inline void check_gram(const char* op, const Tensor& gram) {
  STD_TORCH_CHECK(gram.dim() == 3 && gram.size(1) == gram.size(2), op, ": gram must be [N, C, C], got ",
                  shape_of(gram));
  STD_TORCH_CHECK(gram.is_contiguous(), op, ": gram must be contiguous, since it is written in place");
  STD_TORCH_CHECK(gram.scalar_type() == ScalarType::Float || gram.scalar_type() == ScalarType::Double, op,
                  ": gram must be float32 or float64, got ", torch::headeronly::toString(gram.scalar_type()));
}

inline Arguments check_arguments(const char* op, const Tensor& gram) {
  check_gram(op, gram);
  return {gram.size(0), gram.size(1), 0};
}

inline Arguments check_arguments(const char* op, const Tensor& gram, const Tensor& target) {
  Arguments arguments = check_arguments(op, gram);
  const int64_t channels = arguments.channels, dim = target.dim();
  STD_TORCH_CHECK((dim == 2 || (dim == 3 && target.size(0) == arguments.matrices)) &&
                      target.size(dim - 1) == channels && target.size(dim - 2) == channels,
                  op, ": target ", shape_of(target), " must be [C, C] or [N, C, C] as gram ", shape_of(gram));
  check_same_device(op, gram, "target", target);
  STD_TORCH_CHECK(target.scalar_type() == gram.scalar_type(), op, ": target must have the dtype of gram");
  arguments.target_stride = dim == 3 ? channels * channels : 0;
  return arguments;
}

}  // namespace whylight::gram
