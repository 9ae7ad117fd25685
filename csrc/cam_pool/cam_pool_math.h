// The arithmetic of a class activation map, element by element, for CPU and CUDA; knows no memory layout.
#pragma once

#include "../common/host_device.h"
#include "cam_pool_scheme.h"

namespace whylight::cam_pool {

// Whether a scheme weighs whole channels, or every position by itself.
WHYLIGHT_HOST_DEVICE constexpr bool weighs_channels(Scheme s) {
  return s == Scheme::kGradCam || s == Scheme::kGradCamPlusPlus || s == Scheme::kXGradCam;
}

// Whether a channel's weight needs the sum of its activations first.
WHYLIGHT_HOST_DEVICE constexpr bool needs_total(Scheme s) {
  return s == Scheme::kGradCamPlusPlus || s == Scheme::kXGradCam;
}

// What one position with gradient g and activation a adds to the sum that its channel's weight is made from; T may be a
// vector of positions. `HasEps` says that eps is not 0: a branch here would keep the loops around it from vectorising.
template <Scheme S, bool HasEps, class T>
WHYLIGHT_HOST_DEVICE T weight_term(T g, T a, T total, T eps) {
  static_assert(weighs_channels(S));
  if constexpr (S == Scheme::kGradCam) {
    return g;
  } else if constexpr (S == Scheme::kXGradCam) {
    return g * a;
  } else {
    // Without eps, g^2 cancels; cancelling it first keeps gradients whose square underflows.
    const T zero = constant<T>(0), one = constant<T>(1), two = constant<T>(2);
    const T square = HasEps ? g * g : one;
    const T denominator = HasEps ? two * square + total * g * square + eps : two + total * g;
    const T term = positive_part(g) * (square / choose(denominator != zero, denominator, one));
    return choose((g != zero) & (denominator != zero), term, zero);
  }
}

// The weight of a channel from the sum of its terms.
template <Scheme S, class T>
WHYLIGHT_HOST_DEVICE T channel_weight(T sum, T total, T positions, T eps) {
  static_assert(weighs_channels(S));
  if constexpr (S == Scheme::kGradCam) {
    return sum / positions;
  } else if constexpr (S == Scheme::kXGradCam) {
    const T denominator = total + eps;
    return denominator != T(0) ? sum / denominator : T(0);
  } else {
    return sum;
  }
}

// The weight of a channel whose gradient is g everywhere; of the other schemes, the factor of every position.
template <Scheme S, class T>
WHYLIGHT_HOST_DEVICE T constant_weight(T g, T total, T positions, T eps) {
  if constexpr (S == Scheme::kLayerCam) {
    return positive_part(g);
  } else if constexpr (S == Scheme::kXGradCam) {
    return channel_weight<S>(g * total, total, positions, eps);
  } else if constexpr (S == Scheme::kGradCamPlusPlus) {
    return positions *
           (eps != T(0) ? weight_term<S, true>(g, T(0), total, eps) : weight_term<S, false>(g, T(0), total, eps));
  } else {
    return g;
  }
}

// The factor of one activation where positions are weighed by themselves.
template <Scheme S, class T>
WHYLIGHT_HOST_DEVICE T position_weight(T g) {
  static_assert(!weighs_channels(S));
  return S == Scheme::kLayerCam ? positive_part(g) : g;
}

}  // namespace whylight::cam_pool
