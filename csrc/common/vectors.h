// Sixteen bytes at a time: the widest load that a GPU thread has; knows no operator.
#pragma once

#include <cstdint>

#include "simt.h"

namespace whylight {

constexpr int kVectorBytes = 16;

// How many numbers of a type that is.
template <class T>
inline constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
struct alignas(kVectorBytes) Vector {
  T values[kVector<T>];
};

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
}

// Whether so many numbers of T from an aligned one lies an aligned one.
template <class T>
bool keeps_aligned(int64_t numbers) {
  return numbers % kVector<T> == 0;
}

template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

// A vector of numbers as float, of which `count` are there and the rest are zeros. With `kAligned` they are neighbours,
// there are all or none, and one load fetches them; without, one by one into the same places, so that what is
// computed from them has the same bits.
template <bool kAligned, class T>
__device__ __forceinline__ void load_floats(const T* from, int64_t stride, int count, float (&values)[kVector<T>]) {
  if constexpr (kAligned) {
    Vector<T> vector = {};
    if (count > 0) vector = load_vector(from);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) values[i] = to_float(vector.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) values[i] = i < count ? to_float(from[i * stride]) : 0.f;
  }
}

}  // namespace whylight
