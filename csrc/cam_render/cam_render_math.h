// The arithmetic of drawing a map, sample by sample, for CPU and CUDA; knows no memory layout.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/host_device.h"

namespace whylight::cam_render {

enum class Interpolation : int { kBilinear, kBilinearCorners, kNearest };

// No side of a map or a picture is longer, so that products of two sides fit in 32 bits.
constexpr int64_t kLongestSide = 32767;

// Where an output sample lies along one axis of the map: between `low` and `high`, `fraction` of the way.
template <class T>
struct Position {
  int32_t low;
  int32_t high;
  T fraction;
};

// One axis of a resize from `in` to `out` samples.
struct Axis {
  uint32_t in;
  uint32_t out;
  Interpolation interpolation;
};

// The exact rational source coordinate of output sample d, as a quotient of integers, rounded once: (d + 1/2) in/out -
// 1/2, not below 0, for half-pixel centres; d (in - 1)/(out - 1) for aligned corners.
template <class T>
WHYLIGHT_HOST_DEVICE Position<T> position_of(const Axis& axis, uint32_t d) {
  uint32_t numerator, denominator;
  if (axis.interpolation == Interpolation::kNearest) {
    // As torch has it: the quotient in single precision, whatever the type of the map.
    const float scale = static_cast<float>(axis.in) / static_cast<float>(axis.out);
    const auto nearest = static_cast<uint32_t>(floorf(static_cast<float>(d) * scale));
    const auto source = static_cast<int32_t>(nearest < axis.in ? nearest : axis.in - 1);
    return {source, source, T(0)};
  }
  if (axis.interpolation == Interpolation::kBilinear) {
    const uint32_t centre = (2 * d + 1) * axis.in;
    numerator = centre > axis.out ? centre - axis.out : 0;
    denominator = 2 * axis.out;
  } else {
    numerator = d * (axis.in - 1);
    denominator = axis.out > 1 ? axis.out - 1 : 1;
  }
  const uint32_t low = numerator / denominator;
  const uint32_t rest = numerator - low * denominator;
  if (low + 1 >= axis.in) return {static_cast<int32_t>(axis.in - 1), static_cast<int32_t>(axis.in - 1), T(0)};
  return {static_cast<int32_t>(low), static_cast<int32_t>(low + 1), static_cast<T>(rest) / static_cast<T>(denominator)};
}

// The samples along an axis at which a resized map can have its minimum and maximum. Between two neighbours of the map
// a resized map is linear along the axis, so the first and the last sample of every such interval suffice.
WHYLIGHT_HOST_DEVICE uint32_t extreme_count(const Axis& axis) {
  return axis.out <= 2 * axis.in ? axis.out : 2 * axis.in;
}

WHYLIGHT_HOST_DEVICE uint32_t extreme_at(const Axis& axis, uint32_t index) {
  if (axis.out <= 2 * axis.in) return index;
  // The first sample of interval i is the first d whose coordinate reaches i; the last of i precedes the first of i
  // + 1.
  const uint32_t interval = (index + 1) / 2;
  uint32_t first;
  if (interval >= axis.in) {
    first = axis.out;
  } else if (axis.interpolation == Interpolation::kBilinear) {
    const uint32_t reach = (2 * interval + 1) * axis.out;
    first = interval == 0 ? 0 : (reach - axis.in + 2 * axis.in - 1) / (2 * axis.in);
  } else if (axis.interpolation == Interpolation::kBilinearCorners) {
    first = axis.in > 1 ? (interval * (axis.out - 1) + axis.in - 2) / (axis.in - 1) : 0;
  } else {
    first = (interval * axis.out + axis.in - 1) / axis.in;
  }
  return index % 2 == 0 ? first : first - 1;
}

// From a to b: exactly a if they are equal, so that a constant map stays constant.
template <class T>
WHYLIGHT_HOST_DEVICE T between(T a, T b, T fraction) {
  return multiply_add(fraction, b - a, a);
}

// What normalises a map: (v - offset) / divisor, held to [lowest, 1].
template <class T>
struct Normalisation {
  T offset;
  T divisor;
  T lowest;
};

// From the extremes of a map. A map without range, signed or not, becomes 0.
template <class T>
WHYLIGHT_HOST_DEVICE Normalisation<T> normalisation_of(T low, T high, T eps, bool is_signed) {
  const T offset = is_signed ? T(0) : low;
  const T range = is_signed ? upper(-low, high) : high - low;
  const T divisor = range + eps;
  return {offset, divisor == T(0) ? T(1) : divisor, is_signed ? T(-1) : T(0)};
}

template <class T>
WHYLIGHT_HOST_DEVICE T normalised(T v, const Normalisation<T>& n) {
  const T scaled = (v - n.offset) / n.divisor;
  const T held = scaled > T(1) ? T(1) : scaled;
  return held < n.lowest ? n.lowest : held;
}

// 255 v truncated, as np.uint8(255 * v), of v held to 0..1; a signed v is brought there from -1..1 first; NaN is 0.
template <class T>
WHYLIGHT_HOST_DEVICE int32_t quantised(T v, bool is_signed) {
  const T unit = multiply_add(v, is_signed ? T(0.5) : T(1), is_signed ? T(0.5) : T(0));
  const T positive = unit > T(0) ? unit : T(0);
  return static_cast<int32_t>(T(255) * (positive < T(1) ? positive : T(1)));
}

// Opacity in steps of 1/65536: integer arithmetic gives every device the same bytes.
constexpr int32_t kOpaque = 65536;

WHYLIGHT_HOST_DEVICE uint8_t blended(int32_t colour, int32_t image, int32_t opacity) {
  return static_cast<uint8_t>((opacity * colour + (kOpaque - opacity) * image + kOpaque / 2) >> 16);
}

}  // namespace whylight::cam_render
