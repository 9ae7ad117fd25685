// Runs the CUDA kernels of tv_loss under the emulator, in three orders of threads and blocks, against double precision.
#include "../tv_loss/tv_loss_launch.cuh"
#include "expect.h"

namespace {

using namespace whylight;
using namespace whylight::tv_loss;
using namespace whylight::testing;

struct Case {
  int64_t images, channels, height, width;
  bool channels_last;
};

struct Expected {
  std::vector<double> losses, gradients;
};

Layout layout_of(const Case& c) {
  const int64_t area = c.height * c.width, all = c.channels * area;
  const Strides planar{all, area, c.width}, last{all, 0, c.width * c.channels};
  if (c.channels_last) return {c.images, 1, c.height, c.width * c.channels, c.channels, last, last};
  return {c.images, c.channels, c.height, c.width, 1, planar, planar};
}

// The definition: every pixel's term, and its derivatives scattered to the three values that it is made of.
Expected expected(const Case& c, const std::vector<float>& values, const std::vector<float>& upstream, double beta,
                  double eps, bool isotropic) {
  Expected result{std::vector<double>(c.images, 0.), std::vector<double>(values.size(), 0.)};
  const int64_t area = c.height * c.width, pixel = c.channels_last ? c.channels : 1;
  const auto add = [&](int64_t n, double square) {
    if (square != 0) result.losses[n] += std::pow(square + eps, beta / 2) - std::pow(eps, beta / 2);
    return square != 0 ? beta * std::pow(square + eps, beta / 2 - 1) * upstream[n] : 0.;
  };
  for (int64_t n = 0; n < c.images; ++n) {
    for (int64_t k = 0; k < c.channels; ++k) {
      const int64_t base = n * c.channels * area + (c.channels_last ? k : k * area);
      for (int64_t i = 0; i < area; ++i) {
        const int64_t own = base + i * pixel;
        const int64_t right = i % c.width + 1 < c.width ? own + pixel : own;
        const int64_t below = i / c.width + 1 < c.height ? own + c.width * pixel : own;
        const double dx = double(values[right]) - values[own], dy = double(values[below]) - values[own];
        double across = isotropic ? add(n, dx * dx + dy * dy) : add(n, dx * dx);
        double down = isotropic ? across : add(n, dy * dy);
        across *= dx;
        down *= dy;
        result.gradients[right] += across;
        result.gradients[below] += down;
        result.gradients[own] -= across + down;
      }
    }
  }
  return result;
}

void check(const Case& c, float beta, float eps, bool isotropic) {
  const std::vector<long> where{
      c.images, c.channels, c.height, c.width, c.channels_last, std::lround(beta * 100), std::lround(eps * 100),
      isotropic};
  const size_t count = static_cast<size_t>(c.images * c.channels * c.height * c.width);
  std::vector<float> values = normal(count, 5);
  for (size_t i = 0; i < count; i += 7) values[i] = std::round(values[i]);  // so that some differences are 0
  const std::vector<float> upstream = normal(static_cast<size_t>(c.images), 6);
  const Expected right = expected(c, values, upstream, beta, eps, isotropic);
  const Layout layout = layout_of(c);
  std::vector<float> first;
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::order = order;
    std::vector<float> partial = poisoned(static_cast<size_t>(c.images * tiles_of(layout).per_image));
    std::vector<float> alone = poisoned(static_cast<size_t>(c.images)), losses = alone;
    std::vector<float> gradients = poisoned(count), both = gradients;
    Problem problem{layout,
                    constants_of<float>(beta, eps),
                    power_of(beta, eps, isotropic),
                    isotropic,
                    upstream.data(),
                    1,
                    partial.data(),
                    nullptr};
    walk_all<float>(problem, values.data(), gradients.data(), nullptr);
    problem.losses = losses.data();
    walk_all<float>(problem, values.data(), both.data(), nullptr);
    problem.losses = alone.data();
    walk_all<float>(problem, values.data(), nullptr, nullptr);
    expect(same_bits(losses, alone), "the loss with a gradient and without", where);
    expect(same_bits(gradients, both), "the gradient with a loss and without", where);
    std::vector<float> all = losses;
    all.insert(all.end(), gradients.begin(), gradients.end());
    if (!first.empty()) {
      expect(same_bits(first, all), "same bits in another order of threads", where);
      continue;
    }
    first = all;
    for (size_t n = 0; n < losses.size(); ++n) expect(close(losses[n], right.losses[n], 2e-6), "loss", where);
    double largest = 0;
    for (double g : right.gradients) largest = std::max(largest, std::fabs(g));
    for (size_t i = 0; i < count; ++i) {
      expect(std::fabs(gradients[i] - right.gradients[i]) <= 2e-6 * largest, "gradient", where);
    }
  }
}

// The power against the library's, over all normal numbers, in steps that meet every exponent many times.
void check_power(double beta) {
  const Constants<float> constants = constants_of<float>(beta, 0);
  double worst = 0;
  for (uint32_t bits = 0x00800000u; bits < 0x7f800000u; bits += 16411) {
    const double s = float_of(bits), right = std::pow(s, beta / 2 - 1);
    const float actual = power(float_of(bits), constants);
    if (right < 0x1p-124 || right > 0x1p126) continue;
    worst = std::max(worst, std::fabs(actual / right - 1));
  }
  std::printf("power %g: relative error %.2g\n", beta / 2 - 1, worst);
  expect(worst < 3e-7, "power", {std::lround(beta * 1000), std::lround(worst * 1e10)});
}

}  // namespace

int main() {
  for (double beta : {1., 1.001, 1.2, 1.5, 1.9, 2.3, 2.5, 3., 3.7, 4., 6., 10.}) check_power(beta);
  for (bool last : {false, true}) {
    for (const Case& c : {Case{2, 2, 19, 21, last}, Case{1, 1, 1, 1, last}, Case{1, 2, 1, 300, last},
                          Case{1, 1, 18, 259, last}, Case{1, 300, 2, 2, last}}) {
      for (bool isotropic : {false, true}) {
        for (float beta : {1.f, 1.5f, 2.f}) check(c, beta, 0.f, isotropic);
        check(c, 1.f, 0.25f, isotropic);
      }
      check(c, 2.5f, 0.25f, true);
    }
  }
  std::printf("%d failures\n", whylight::testing::failures);
  return whylight::testing::failures != 0;
}
