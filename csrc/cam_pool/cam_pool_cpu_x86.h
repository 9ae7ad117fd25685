// The CPU kernels of cam_pool for one x86-64 instruction set. The file that includes this states it: WHYLIGHT_TARGET,
// as the compiler names it, WHYLIGHT_REGISTER_BYTES, and WHYLIGHT_POOL, the name of the function that hands out
// kernels.

// First whatever other files share, of which the linker keeps one copy for all machines.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../common/targets.h"
#include "cam_pool_work.h"

#if defined(WHYLIGHT_X86_TARGETS)
#  define WHYLIGHT_PRAGMA(text) _Pragma(#text)
#  define WHYLIGHT_EXPANDED_PRAGMA(text) WHYLIGHT_PRAGMA(text)
#  if defined(__clang__)
WHYLIGHT_EXPANDED_PRAGMA(clang attribute push(__attribute__((target(WHYLIGHT_TARGET))), apply_to = function))
#  else
WHYLIGHT_EXPANDED_PRAGMA(GCC target(WHYLIGHT_TARGET))
#  endif
#  include "cam_pool_slices.h"

namespace whylight::cam_pool {

Kernel<float> WHYLIGHT_POOL(float) {
  return pool_any<WHYLIGHT_REGISTER_BYTES, float>;
}
Kernel<double> WHYLIGHT_POOL(double) {
  return pool_any<WHYLIGHT_REGISTER_BYTES, double>;
}

}  // namespace whylight::cam_pool

#  if defined(__clang__)
#    pragma clang attribute pop
#  endif
#endif
