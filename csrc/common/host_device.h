// Arithmetic that the CPU and the CUDA kernels share; knows neither torch nor CUDA's runtime.
#pragma once

#include <type_traits>

#if defined(__CUDACC__)
#  define WHYLIGHT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#  define WHYLIGHT_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace whylight {

// A number as T, which may be a vector of the compiler's.
template <class T>
WHYLIGHT_HOST_DEVICE T constant(int value) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<T>(value);
  } else {
    return T{} + static_cast<std::decay_t<decltype(T{}[0])>>(value);
  }
}

// condition ? a : b, for numbers and, lane by lane, for vectors of the compiler's.
template <class C, class T>
WHYLIGHT_HOST_DEVICE T choose(C condition, T a, T b) {
  return condition ? a : b;
}

// max(v, 0) that keeps NaN, which fmax drops.
template <class T>
WHYLIGHT_HOST_DEVICE T positive_part(T v) {
  const T zero = constant<T>(0);
  return choose(v > zero, v, choose(v == v, zero, v));
}

// a * b + c. On the GPU always fused, so that every instantiation of a kernel rounds alike; on the CPU as the
// compiler's target has it, since a fused multiply-add without the instruction is a slow library call.
template <class T>
WHYLIGHT_HOST_DEVICE T multiply_add(T a, T b, T c) {
#if defined(__CUDA_ARCH__)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

// The smaller and the larger of two, NaN if either is.
template <class T>
WHYLIGHT_HOST_DEVICE T lower(T a, T b) {
  return b < a || b != b ? b : a;
}

template <class T>
WHYLIGHT_HOST_DEVICE T upper(T a, T b) {
  return b > a || b != b ? b : a;
}

}  // namespace whylight
