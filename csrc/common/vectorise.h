// How a CPU kernel is compiled for several instruction sets and reads 16-bit floats; knows no operator.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "targets.h"

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

// A vector of T in the compiler's own type, of kBytes, and what goes with it.
template <class T, int kBytes>
struct Simd {
  static constexpr int64_t kLanes = kBytes / sizeof(T);
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Vector __attribute__((vector_size(kBytes)));
  typedef Integer Mask __attribute__((vector_size(kBytes)));
  typedef T Unaligned __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));

  static WHYLIGHT_INLINE Vector load(const T* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static WHYLIGHT_INLINE void store(T* to, Vector v) { *reinterpret_cast<Unaligned*>(to) = v; }
};

template <class Half, class Vector, size_t... kIndex>
WHYLIGHT_INLINE Half add_halves(Vector v, std::index_sequence<kIndex...>) {
  constexpr size_t half = sizeof...(kIndex);
#if defined(__has_builtin)
#  if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(v, v, kIndex...) + __builtin_shufflevector(v, v, (kIndex + half)...);
#  endif
#endif
  return Half{v[kIndex]...} + Half{v[kIndex + half]...};
}

// The sum of the lanes, always in the same order: halves onto each other.
template <class T, int kBytes>
WHYLIGHT_INLINE T sum_lanes(typename Simd<T, kBytes>::Vector v) {
  if constexpr (kBytes == 2 * sizeof(T)) {
    return v[0] + v[1];
  } else {
    using Half = typename Simd<T, kBytes / 2>::Vector;
    return sum_lanes<T, kBytes / 2>(add_halves<Half>(v, std::make_index_sequence<kBytes / sizeof(T) / 2>()));
  }
}

// A row of `count` numbers as vectors: the body, up to `body()`, in whole ones; the tail in one more, which overlaps
// the body and has zeros there. Short loops, such as 49 positions of a 7 x 7 map, cost no scalar rest this way.
template <class T, int kBytes>
class Row {
 public:
  using S = Simd<T, kBytes>;
  using Vector = typename S::Vector;
  static constexpr int64_t kLanes = S::kLanes;

  explicit Row(int64_t count) : count_(count) {
    const int64_t rest = count % kLanes;
    for (int64_t i = 0; i < kLanes; ++i) mask_[i] = i >= kLanes - rest ? -1 : 0;
  }

  WHYLIGHT_INLINE int64_t body() const { return count_ - count_ % kLanes; }

  WHYLIGHT_INLINE Vector tail(const T* row) const {
    if (count_ >= kLanes) return masked(S::load(row + count_ - kLanes));
    Vector v{};
    std::memcpy(&v, row, count_ * sizeof(T));
    return v;
  }

  // Adds v to the tail, whatever v has outside it.
  WHYLIGHT_INLINE void add_to_tail(T* row, Vector v) const {
    if (count_ >= kLanes) {
      T* tail = row + count_ - kLanes;
      S::store(tail, S::load(tail) + masked(v));
    } else {
      Vector sum = tail(row) + v;
      std::memcpy(row, &sum, count_ * sizeof(T));
    }
  }

 private:
  WHYLIGHT_INLINE Vector masked(Vector v) const { return (Vector)((typename S::Mask)v & mask_); }

  int64_t count_;
  typename S::Mask mask_;
};

}  // namespace whylight
