// Runs the CUDA kernels of cam_pool under the emulator, in three orders of threads and blocks, against double
// precision; and on tensors that start off the vectors, which must give the same bits.
#include "../cam_pool/cam_pool_launch.cuh"
#include "expect.h"

namespace {

using namespace whylight;
using namespace whylight::cam_pool;
using namespace whylight::testing;

struct Case {
  long inputs, channels, positions;
  bool channels_last;
  bool constant;              // gradients that are the same everywhere
  std::vector<int32_t> rows;  // empty: one target per input
  float eps;
};

// Element strides of [n, channels, positions] in either order.
Strides strides_of(const Case& c) {
  return c.channels_last ? Strides{c.channels * c.positions, 1, c.channels}
                         : Strides{c.channels * c.positions, c.positions, 1};
}

template <Scheme S>
std::vector<double> expected(const Case& c, long targets, const float* a, const float* g) {
  std::vector<double> maps(targets * c.positions, 0.);
  const Strides as = strides_of(c), gs = c.constant ? Strides{c.channels, 1, 0} : as;
  for (long m = 0; m < targets; ++m) {
    const long n = c.rows.empty() ? m : c.rows[m];
    for (long k = 0; k < c.channels; ++k) {
      const auto at_a = [&](long p) { return double(a[n * as.batch + k * as.channel + p * as.position]); };
      const auto at_g = [&](long p) { return double(g[m * gs.batch + k * gs.channel + p * gs.position]); };
      double weight = 0;
      if constexpr (weighs_channels(S)) {
        double total = 0, terms = 0;
        for (long p = 0; p < c.positions; ++p) total += at_a(p);
        for (long p = 0; p < c.positions; ++p) {
          terms += c.eps != 0 ? weight_term<S, true>(at_g(p), at_a(p), total, double(c.eps))
                              : weight_term<S, false>(at_g(p), at_a(p), total, 0.);
        }
        weight = channel_weight<S>(terms, total, double(c.positions), double(c.eps));
      }
      for (long p = 0; p < c.positions; ++p) {
        if constexpr (!weighs_channels(S)) weight = position_weight<S>(at_g(p));
        maps[m * c.positions + p] += weight * at_a(p);
      }
    }
  }
  return maps;
}

inline float to(float, float v) {
  return v;
}
inline __nv_bfloat16 to(__nv_bfloat16, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return {static_cast<uint16_t>(bits >> 16)};
}

// As T, `shift` numbers after a vector starts; and what they are as float.
template <class T>
std::vector<T> rounded(std::vector<float>& values, size_t shift) {
  std::vector<T> result(shift, to(T{}, NAN));
  for (float& v : values) {
    result.push_back(to(T{}, v));
    v = to_float(result.back());
  }
  result.shrink_to_fit();  // AddressSanitizer sees one number too far
  return result;
}

template <class T, Scheme S>
void check(const Case& c) {
  const long targets = c.rows.empty() ? c.inputs : static_cast<long>(c.rows.size());
  const std::vector<long> where = {static_cast<long>(S),
                                   static_cast<long>(sizeof(T)),
                                   c.inputs,
                                   c.channels,
                                   c.positions,
                                   c.channels_last,
                                   c.constant};
  std::vector<float> a = normal(c.inputs * c.channels * c.positions, 1);
  for (float& v : a) v = std::fabs(v);
  std::vector<float> g = normal(targets * c.channels * (c.constant ? 1 : c.positions), 2, 0.1f);
  Problem problem{{static_cast<int>(c.channels), static_cast<int>(c.positions), splits_of(c.channels), strides_of(c),
                   c.constant ? Strides{c.channels, 1, 0} : strides_of(c), c.eps},
                  c.channels_last,
                  S,
                  targets,
                  c.rows.empty(),
                  {},
                  {}};
  for (long m = 0; m < targets && !c.rows.empty(); ++m) {
    if (m > 0 && c.rows[m] == c.rows[m - 1]) continue;
    problem.inputs.push_back(c.rows[m]);
    problem.firsts.push_back(static_cast<int32_t>(m));
  }
  problem.firsts.push_back(static_cast<int32_t>(targets));
  const auto run = [&](simt::Order order, const T* activations, const T* gradients) {
    simt::order = order;
    std::vector<float> weights = poisoned(weighs_apart(problem) ? targets * c.channels : 0);
    std::vector<float> partial = poisoned(targets * problem.shape.splits * c.positions);
    std::vector<float> maps = poisoned(targets * c.positions);
    pool<T>(problem, activations, gradients, weights.data(), partial.data(), maps.data(), nullptr);
    return maps;
  };
  const std::vector<T> aligned_a = rounded<T>(a, 0), aligned_g = rounded<T>(g, 0);
  const std::vector<float> maps = run(simt::Order::kForward, aligned_a.data(), aligned_g.data());
  const std::vector<double> right = expected<S>(c, targets, a.data(), g.data());
  for (size_t i = 0; i < maps.size(); ++i) expect(close(maps[i], right[i], 2e-5), "value", where);
  for (simt::Order order : {simt::Order::kReverse, simt::Order::kRandom}) {
    expect(same_bits(maps, run(order, aligned_a.data(), aligned_g.data())), "same bits in another order of threads",
           where);
  }
  const std::vector<T> shifted_a = rounded<T>(a, 1), shifted_g = rounded<T>(g, 1);
  expect(same_bits(maps, run(simt::Order::kRandom, shifted_a.data() + 1, shifted_g.data() + 1)),
         "same bits without vectors", where);
}

template <class T>
void check_all(const Case& c) {
  check<T, Scheme::kGradCam>(c);
  check<T, Scheme::kGradCamPlusPlus>(c);
  check<T, Scheme::kXGradCam>(c);
  check<T, Scheme::kLayerCam>(c);
  check<T, Scheme::kHiResCam>(c);
}

}  // namespace

int main() {
  std::vector<Case> cases;
  for (bool last : {false, true}) {
    cases.push_back({1, 1, 1, last, false, {}, 1e-6f});
    cases.push_back({2, 67, 49, last, false, {}, 0.f});
    cases.push_back({1, 67, 49, last, true, {0, 0}, 1e-6f});
    cases.push_back({1, 24, 64, last, false, {0, 0, 0}, 1e-7f});
    cases.push_back({2, 72, 196, last, false, {0, 0, 1}, 0.f});
  }
  // Too many positions for one block: weights are made apart. The planes of the first start off the vectors.
  cases.push_back({1, 66, 301, false, false, {0, 0}, 0.f});
  cases.push_back({2, 4, 304, false, false, {0, 1, 1}, 0.f});
  cases.push_back({1, 3, 304, false, true, {}, 1e-6f});
  cases.push_back({1, 3, 1100, true, false, {0, 0}, 1e-6f});
  cases.push_back({1, 8, 1100, true, true, {}, 1e-6f});
  for (const Case& c : cases) {
    check_all<float>(c);
#if !defined(SIMT_ONE_TYPE)  // enough to notice a planted fault, and sooner compiled
    check_all<__nv_bfloat16>(c);
#endif
  }
  std::printf("%zu cases, %d failures\n", cases.size(), whylight::testing::failures);
  return whylight::testing::failures != 0;
}
