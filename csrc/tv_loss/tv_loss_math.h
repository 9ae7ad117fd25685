// The arithmetic of total variation, pixel by pixel, for CPU and CUDA; knows no memory layout.
//
// A pixel has two differences, dx to its right neighbour and dy to the one below, 0 where there is none. With
// s = dx^2 + dy^2 it adds (s + eps)^(beta / 2) - eps^(beta / 2) to the loss, or, anisotropic, that of dx^2 and of dy^2.
// The derivative of the loss by dx is the pixel's flux across, by dy its flux down; both are 0 where s is, which is a
// subgradient for beta = 1 and the derivative above.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../common/host_device.h"

namespace whylight::tv_loss {

// How the power is had: beta = 2 needs none; beta = 1 a square root, or anisotropic and without eps an absolute value;
// the rest a polynomial.
enum class Power : int { kSquare, kFirst, kGeneral };

// beta and eps, made ready. `high` has so few bits that its product with an exponent is exact; `low` is the rest.
template <class T>
struct Constants {
  T beta, eps, bias;      // bias: eps^(beta / 2)
  T exponent, high, low;  // of the slope: beta / 2 - 1
};

template <class T>
Constants<T> constants_of(double beta, double eps) {
  const double exponent = beta / 2 - 1;
  int binary = 0;
  const double fraction = std::frexp(exponent, &binary);
  const double high = std::ldexp(std::nearbyint(std::ldexp(fraction, 12)), binary - 12);
  return {static_cast<T>(beta),     static_cast<T>(eps),  static_cast<T>(std::pow(eps, beta / 2)),
          static_cast<T>(exponent), static_cast<T>(high), static_cast<T>(exponent - high)};
}

inline Power power_of(double beta, double eps, bool isotropic) {
  if (beta == 2) return Power::kSquare;
  return beta == 1 && (isotropic || eps == 0) ? Power::kFirst : Power::kGeneral;
}

WHYLIGHT_HOST_DEVICE uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

WHYLIGHT_HOST_DEVICE float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// s^exponent for positive normal s, with a relative error below 3e-7 (tests/native/test_tv_loss.py measures it), 0 or
// infinity where the result leaves the normal numbers, NaN for NaN. No branch, no table, no library: loops around it
// vectorise. 2^(exponent log2 s): s = 2^e m, the exponent's product with e is split into an exact part and a small
// rest, and the whole number nearest to it all goes straight into the result's exponent.
WHYLIGHT_HOST_DEVICE float power(float s, const Constants<float>& c) {
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to a whole number, in the low bits of the sum
  const uint32_t bits = bits_of(s);
  const int32_t e = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;  // so that m is from sqrt(1/2) to sqrt(2)
  const float whole = static_cast<float>(e);
  const float x = float_of(bits - (static_cast<uint32_t>(e) << 23)) - 1.f;
  // Least error at Chebyshev's points: of log2(1 + x) / x, 4e-8, and of (2^f - 1) / f below, 2e-8.
  float log = 0.12614846229553223f;
  log = multiply_add(log, x, -0.20742103457450867f);
  log = multiply_add(log, x, 0.21566985547542572f);
  log = multiply_add(log, x, -0.23892034590244293f);
  log = multiply_add(log, x, 0.2879183292388916f);
  log = multiply_add(log, x, -0.36070483922958374f);
  log = multiply_add(log, x, 0.48091059923171997f);
  log = multiply_add(log, x, -0.7213473320007324f);
  log = multiply_add(log, x, 1.4426950216293335f);
  const float exact = c.high * whole;
  const float rest = multiply_add(c.exponent, log * x, c.low * whole);
  const float y = exact + rest;
  const float rounded = y + kRound;
  const float f = (exact - (rounded - kRound)) + rest;
  float exp = 0.00015461447765119374f;
  exp = multiply_add(exp, f, 0.0013390866806730628f);
  exp = multiply_add(exp, f, 0.009618056938052177f);
  exp = multiply_add(exp, f, 0.055503569543361664f);
  exp = multiply_add(exp, f, 0.24022650718688965f);
  exp = multiply_add(exp, f, 0.6931471824645996f);
  exp = multiply_add(exp, f, 1.f);
  const float scaled = float_of(bits_of(exp) + (bits_of(rounded) << 23));
  const float bounded = y > 127.f ? float_of(0x7f800000u) : (y < -125.f ? 0.f : scaled);
  return s == s ? bounded : s;
}

WHYLIGHT_HOST_DEVICE double power(double s, const Constants<double>& c) {
  return pow(s, c.exponent);
}

template <class T>
WHYLIGHT_HOST_DEVICE T smallest_normal() {
  return sizeof(T) == sizeof(float) ? T(0x1p-126) : T(0x1p-1022);
}

// What a square adds to the loss, and its slope: twice the derivative by the square. For a square of 0 both are 0, so
// that eps adds nothing where there is no difference, to the bit.
template <class T>
struct Term {
  T value, slope;
};

template <Power P, class T>
WHYLIGHT_HOST_DEVICE Term<T> term_of(T square, const Constants<T>& c) {
  if constexpr (P == Power::kSquare) {
    return {square, T(2)};
  } else {
    const T s = square + c.eps;
    Term<T> term;
    if constexpr (P == Power::kFirst) {
      const T root = sqrt(s);
      term = {root - c.bias, T(1) / root};
    } else {
      const T scale = power(s, c);
      term = {multiply_add(s, scale, -c.bias), c.beta * scale};
    }
    const bool none = square < smallest_normal<T>();
    return {none ? T(0) : term.value, none ? T(0) : term.slope};
  }
}

template <class T>
WHYLIGHT_HOST_DEVICE T magnitude(T d) {
  return d < T(0) ? -d : d;
}

// -1, 0 or 1, and NaN of NaN.
template <class T>
WHYLIGHT_HOST_DEVICE T sign(T d) {
  return d > T(0) ? T(1) : (d < T(0) ? T(-1) : d);
}

// What a pixel adds to the loss, and its fluxes.
template <class T>
struct Pixel {
  T value, across, down;
};

template <Power P, bool kIsotropic, class T>
WHYLIGHT_HOST_DEVICE Pixel<T> pixel_of(T dx, T dy, const Constants<T>& c) {
  if constexpr (kIsotropic || P == Power::kSquare) {
    const Term<T> term = term_of<P>(multiply_add(dx, dx, dy * dy), c);
    return {term.value, term.slope * dx, term.slope * dy};
  } else if constexpr (P == Power::kFirst) {
    return {magnitude(dx) + magnitude(dy), sign(dx), sign(dy)};
  } else {
    const Term<T> x = term_of<P>(dx * dx, c), y = term_of<P>(dy * dy, c);
    return {x.value + y.value, x.slope * dx, y.slope * dy};
  }
}

}  // namespace whylight::tv_loss
