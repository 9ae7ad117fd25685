// The arithmetic of two mirrored entries of a Gram matrix, for CPU and CUDA; knows no memory layout.
#pragma once

#include "../common/host_device.h"

namespace whylight::gram {

// Two mirrored entries of the difference to a target, which need not be symmetric itself.
template <class T>
struct Differences {
  T upper, lower;
};

template <class T>
WHYLIGHT_HOST_DEVICE Differences<T> differences_of(T gram, T upper_target, T lower_target) {
  return {gram - upper_target, gram - lower_target};
}

// Their symmetric part: all of a difference that the gradient of its squares needs.
template <class T>
WHYLIGHT_HOST_DEVICE T symmetric_part(const Differences<T>& d) {
  return T(0.5) * (d.upper + d.lower);
}

}  // namespace whylight::gram
