// Which instruction set this machine has, of those that kernels are compiled for one by one. Not to be included where a
// target is set: this code runs on every machine.
#pragma once

#include <cstdlib>
#include <string_view>

#include "targets.h"

namespace whylight {

// How wide the vector registers are, of the widths that kernels are written out for: what this machine has, or less if
// ATEN_CPU_CAPABILITY says so, by which torch lets its own kernels be chosen.
inline int register_bytes() {
#if defined(WHYLIGHT_X86_TARGETS)
  static const int bytes = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    const char* stated = std::getenv("ATEN_CPU_CAPABILITY");
    const std::string_view most = stated ? stated : "avx512";
    if (most == "default") return 16;
    if (most == "avx2") return avx2 ? 32 : 16;
    return avx2 ? (avx512 ? 64 : 32) : 16;
  }();
  return bytes;
#else
  return 16;
#endif
}

}  // namespace whylight
