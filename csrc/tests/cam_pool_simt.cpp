// Runs the CUDA kernels of cam_pool under the emulator, in three orders of threads and blocks, against double
// precision.
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
std::vector<double> expected(const Case& c, long targets, const std::vector<float>& a, const std::vector<float>& g) {
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

template <Scheme S>
void check(const Case& c) {
  const long targets = c.rows.empty() ? c.inputs : static_cast<long>(c.rows.size());
  std::vector<float> a = normal(c.inputs * c.channels * c.positions, 1);
  for (float& v : a) v = std::fabs(v);
  const std::vector<float> g = normal(targets * c.channels * (c.constant ? 1 : c.positions), 2, 0.1f);
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
  std::vector<float> first;
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::order = order;
    std::vector<float> weights = poisoned(weighs_apart(problem) ? targets * c.channels : 0);
    std::vector<float> partial = poisoned(targets * problem.shape.splits * c.positions);
    std::vector<float> maps = poisoned(targets * c.positions);
    pool<float>(problem, a.data(), g.data(), weights.data(), partial.data(), maps.data(), nullptr);
    if (first.empty()) {
      first = maps;
      const std::vector<double> right = expected<S>(c, targets, a, g);
      for (size_t i = 0; i < maps.size(); ++i) {
        expect(close(maps[i], right[i], 2e-5), "value",
               {static_cast<long>(S), c.inputs, c.channels, c.positions, c.channels_last, c.constant, long(i)});
      }
    }
    expect(same_bits(first, maps), "same bits in another order of threads",
           {static_cast<long>(S), c.inputs, c.channels, c.positions, c.channels_last, c.constant});
  }
}

}  // namespace

int main() {
  std::vector<Case> cases;
  for (bool last : {false, true}) {
    cases.push_back({1, 1, 1, last, false, {}, 1e-6f});
    cases.push_back({2, 67, 49, last, false, {}, 0.f});
    cases.push_back({1, 67, 49, last, true, {0, 0}, 1e-6f});
    cases.push_back({1, 20, 64, last, false, {0, 0, 0, 0, 0}, 1e-7f});
    cases.push_back({3, 17, 196, last, false, {0, 0, 2}, 0.f});
  }
  // Too many positions for one block: weights are made apart.
  cases.push_back({2, 66, 301, false, false, {0, 1, 1}, 0.f});
  cases.push_back({1, 66, 301, false, true, {}, 1e-6f});
  cases.push_back({1, 3, 1100, true, false, {0, 0}, 1e-6f});
  for (const Case& c : cases) {
    check<Scheme::kGradCam>(c);
    check<Scheme::kGradCamPlusPlus>(c);
    check<Scheme::kXGradCam>(c);
    check<Scheme::kLayerCam>(c);
    check<Scheme::kHiResCam>(c);
  }
  std::printf("%zu cases, %d failures\n", 5 * cases.size(), whylight::testing::failures);
  return whylight::testing::failures != 0;
}
