// The CPU kernels of cam_pool for x86-64-v3 (AVX2).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../common/targets.h"
#include "cam_pool_work.h"

#if defined(WHYLIGHT_X86_TARGETS)
#  if defined(__clang__)
#    pragma clang attribute push(__attribute__((target("arch=x86-64-v3"))), apply_to = function)
#  else
#    pragma GCC target("arch=x86-64-v3")
#  endif
#  include "cam_pool_slices.h"

namespace whylight::cam_pool {

Kernel<float> pool_avx2(float) {
  return pool_any<32, float>;
}
Kernel<double> pool_avx2(double) {
  return pool_any<32, double>;
}

}  // namespace whylight::cam_pool

#  if defined(__clang__)
#    pragma clang attribute pop
#  endif
#endif
