// How a CPU kernel is compiled for several instruction sets and reads 16-bit floats; knows no operator.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "targets.h"

#if defined(WHYLIGHT_REGISTER_BYTES)
#  include <immintrin.h>
#endif

#define WHYLIGHT_INLINE inline __attribute__((always_inline))
#define WHYLIGHT_INLINE_LAMBDA __attribute__((always_inline))

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

// Numbers of 16 bits, as they lie in memory.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Vectors of integers by the bytes of the 32-bit ones, each size written out: GCC forgets a vector's size if it depends
// on a template's argument and is then a type of its own.
template <int kBytes>
struct Integers;
template <>
struct Integers<16> {
  typedef uint16_t Shorts __attribute__((vector_size(8)));
  typedef uint32_t Words __attribute__((vector_size(16)));
};
template <>
struct Integers<32> {
  typedef uint16_t Shorts __attribute__((vector_size(16)));
  typedef uint32_t Words __attribute__((vector_size(32)));
};
template <>
struct Integers<64> {
  typedef uint16_t Shorts __attribute__((vector_size(32)));
  typedef uint32_t Words __attribute__((vector_size(64)));
};

// A vector of float from as many of those; as half_to_float and bfloat16_to_float, all lanes at once.
template <int kBytes>
struct Widen {
  using Shorts = typename Integers<kBytes>::Shorts;
  using Words = typename Integers<kBytes>::Words;
  using Floats = typename Simd<float, kBytes>::Vector;

  static WHYLIGHT_INLINE Words high_halves(const void* from, size_t bytes) {
    Shorts shorts{};
    std::memcpy(&shorts, from, bytes);
    return __builtin_convertvector(shorts, Words) << 16;
  }

  static WHYLIGHT_INLINE Floats load(const BFloat16* from, size_t bytes = sizeof(Shorts)) {
    return (Floats)high_halves(from, bytes);
  }

  static WHYLIGHT_INLINE Floats load(const Half* from, size_t bytes = sizeof(Shorts)) {
#if defined(WHYLIGHT_REGISTER_BYTES)
    // One instruction instead of ten, to the same result: without it torch.compile was 1.3 to 1.9 times as fast.
    Shorts shorts{};
    std::memcpy(&shorts, from, bytes);
#  if WHYLIGHT_REGISTER_BYTES == 64
    return (Floats)_mm512_maskz_cvtph_ps(0xffff, (__m256i)shorts);  // without a mask, GCC warns of its own header
#  else
    return (Floats)_mm256_cvtph_ps((__m128i)shorts);
#  endif
#else
    const Words bits = high_halves(from, bytes), twice = bits + bits;
    const Floats normal = (Floats)((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const Floats subnormal = (Floats)((twice >> 17) | (126u << 23)) - 0.5f;
    const Floats magnitude = twice < (1u << 27) ? subnormal : normal;
    return (Floats)((bits & 0x80000000u) | (Words)magnitude);
#endif
  }
};

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

  // The vector at p of the body; of T itself, or of 16-bit numbers where T is float.
  template <class E>
  static WHYLIGHT_INLINE Vector at(const E* row, int64_t p) {
    if constexpr (std::is_same_v<E, T>) {
      return S::load(row + p);
    } else {
      return Widen<kBytes>::load(row + p);
    }
  }

  template <class E>
  WHYLIGHT_INLINE Vector tail(const E* row) const {
    if (count_ >= kLanes) return masked(at(row, count_ - kLanes));
    if constexpr (std::is_same_v<E, T>) {
      Vector v{};
      std::memcpy(&v, row, count_ * sizeof(T));
      return v;
    } else {
      return Widen<kBytes>::load(row, count_ * sizeof(E));
    }
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

  // Has the tail be v, whatever v has outside it.
  WHYLIGHT_INLINE void put_tail(T* row, Vector v) const {
    if (count_ >= kLanes) {
      T* tail = row + count_ - kLanes;
      S::store(tail, (Vector)(((typename S::Mask)v & mask_) | ((typename S::Mask)S::load(tail) & ~mask_)));
    } else {
      std::memcpy(row, &v, count_ * sizeof(T));
    }
  }

 private:
  WHYLIGHT_INLINE Vector masked(Vector v) const { return (Vector)((typename S::Mask)v & mask_); }

  int64_t count_;
  typename S::Mask mask_;
};

}  // namespace whylight
