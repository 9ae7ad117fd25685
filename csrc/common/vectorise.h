// How a CPU kernel is compiled for several instruction sets and reads 16-bit floats; knows no operator.
#pragma once

#include <cstdint>
#include <cstring>

// The function is compiled once per instruction set and the loader picks one: AVX-512, AVX2 with FMA, or the baseline.
// The kernels under it are templates forced inline, because clones of templates are beyond some compilers.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(WHYLIGHT_ONE_TARGET)
#  define WHYLIGHT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#  define WHYLIGHT_CLONES
#endif

#define WHYLIGHT_INLINE inline __attribute__((always_inline))

namespace whylight {

WHYLIGHT_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

WHYLIGHT_INLINE float bfloat16_to_float(uint16_t bits) {
  return float_of_bits(static_cast<uint32_t>(bits) << 16);
}

// Without branches or table, so that the loop around it vectorises: normal numbers, infinities and NaN by moving the
// exponent and scaling it back, subnormal numbers by a subtraction that renormalises (Marat Dukhan, FP16, MIT).
WHYLIGHT_INLINE float half_to_float(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  const uint32_t twice = bits + bits;
  const float normal = float_of_bits((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = float_of_bits((twice >> 17) | (126u << 23)) - 0.5f;
  const float magnitude = twice < (1u << 27) ? subnormal : normal;
  uint32_t result;
  std::memcpy(&result, &magnitude, sizeof result);
  return float_of_bits((bits & 0x80000000u) | result);
}

}  // namespace whylight
