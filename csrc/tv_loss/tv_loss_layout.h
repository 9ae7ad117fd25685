// How images and their gradients lie in memory, as the kernels walk them; knows neither torch nor CUDA.
#pragma once

#include <cstdint>

namespace whylight::tv_loss {

constexpr double kLargestBeta = 1024;

struct Strides {
  int64_t image, plane, row;
};

// Rows of `length` neighbours in memory, in which the pixel to the right is `step` further on: a row of one channel
// with step 1, or, channels last, a row of all channels with their number as step and the image as its only plane.
struct Layout {
  int64_t images, planes, rows, length, step;
  Strides source, gradient;
};

}  // namespace whylight::tv_loss
