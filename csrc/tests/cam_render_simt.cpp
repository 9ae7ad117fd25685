// Runs the CUDA kernels of cam_render and cam_overlay under the emulator, in three orders of threads and blocks,
// against double precision; and the samples that can be extreme against all samples.
#include <limits>

#include "../cam_render/cam_render_launch.cuh"
#include "expect.h"

namespace {

using namespace whylight;
using namespace whylight::cam_render;
using namespace whylight::testing;

struct Case {
  uint32_t height, width, out_height, out_width;
  Interpolation interpolation;
};

double sample(const std::vector<double>& map, const Case& c, uint32_t y, uint32_t x) {
  const Position<double> v = position_of<double>({c.height, c.out_height, c.interpolation}, y);
  const Position<double> u = position_of<double>({c.width, c.out_width, c.interpolation}, x);
  const double* top = map.data() + v.low * c.width;
  const double* bottom = map.data() + v.high * c.width;
  return between(between(top[u.low], top[u.high], u.fraction), between(bottom[u.low], bottom[u.high], u.fraction),
                 v.fraction);
}

Normalisation<double> range_of(const std::vector<double>& values, const Work& work) {
  double low = values[0], high = values[0];
  for (double v : values) low = lower(low, v), high = upper(high, v);
  return normalisation_of(low, high, double(work.eps), work.is_signed);
}

// The definition: every sample of the resized map is looked at.
std::vector<double> expected(const float* map, const Case& c, const Work& work) {
  std::vector<double> source(map, map + c.height * c.width), values;
  for (double& v : source) v = work.rectify ? positive_part(v) : v;
  const Normalisation<double> native = range_of(source, work);
  for (double& v : source) v = work.before ? normalised(v, native) : v;
  for (uint32_t y = 0; y < c.out_height; ++y) {
    for (uint32_t x = 0; x < c.out_width; ++x) values.push_back(sample(source, c, y, x));
  }
  const Normalisation<double> resized = range_of(values, work);
  for (double& v : values) v = work.after ? normalised(v, resized) : v;
  return values;
}

void check(const Case& c, const Work& work) {
  const std::vector<long> where{
      c.height,     c.width,        c.out_height, c.out_width, static_cast<long>(c.interpolation),
      work.rectify, work.is_signed, work.before,  work.after};
  constexpr size_t kMaps = 2;
  const size_t area = c.height * c.width, pixels = c.out_height * c.out_width;
  const std::vector<float> maps = normal(kMaps * area, 3);
  std::vector<uint8_t> colours(256 * 3), pictures(kMaps * pixels * 3);
  for (size_t i = 0; i < colours.size(); ++i) colours[i] = static_cast<uint8_t>(i * 37);
  for (size_t i = 0; i < pictures.size(); ++i) pictures[i] = static_cast<uint8_t>(i * 101);
  std::vector<float> first;
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::order = order;
    std::vector<float> prepared = poisoned(kMaps * area), low = poisoned(kMaps), high = poisoned(kMaps);
    std::vector<float> values = poisoned(kMaps * pixels);
    std::vector<Normalisation<float>> normalisation(kMaps, {NAN, NAN, NAN});
    render(work, kMaps, maps.data(), prepared.data(), normalisation.data(), low.data(), high.data(), values.data(),
           static_cast<const uint8_t*>(nullptr), Pictures{}, nullptr);
    if (!first.empty()) {
      expect(same_bits(first, values), "same bits in another order of threads", where);
      continue;
    }
    first = values;
    for (size_t m = 0; m < kMaps; ++m) {
      const std::vector<double> right = expected(maps.data() + m * area, c, work);
      for (size_t i = 0; i < pixels; ++i) expect(close(values[m * pixels + i], right[i], 2e-5), "value", where);
    }
    std::vector<uint8_t> bytes(kMaps * pixels, 0xA5), painted(kMaps * pixels * 3, 0xA5);
    render(work, kMaps, maps.data(), prepared.data(), normalisation.data(), low.data(), high.data(), bytes.data(),
           static_cast<const uint8_t*>(nullptr), Pictures{}, nullptr);
    const int64_t row = 3 * c.out_width;
    const Pictures laid{pictures.data(), row * c.out_height, row, 3, 1, 26214};
    render(work, kMaps, maps.data(), prepared.data(), normalisation.data(), low.data(), high.data(), painted.data(),
           static_cast<const uint8_t*>(colours.data()), laid, nullptr);
    for (size_t i = 0; i < kMaps * pixels; ++i) {
      expect(bytes[i] == quantised(values[i], work.is_signed), "byte", where);
      for (size_t k = 0; k < 3; ++k) {
        const uint8_t paint = blended(colours[3 * bytes[i] + k], pictures[3 * i + k], 26214);
        expect(painted[3 * i + k] == paint, "colour", where);
      }
    }
  }
}

// Every first and last sample of an interval of the map, and so every extreme one, is among those listed.
void check_extremes(uint32_t in, uint32_t out, Interpolation interpolation) {
  const Axis axis{in, out, interpolation};
  std::vector<bool> listed(out);
  for (uint32_t i = 0; i < extreme_count(axis); ++i) {
    const uint32_t d = extreme_at(axis, i);
    expect(d < out, "sample within the axis", {in, out, static_cast<long>(interpolation)});
    if (d < out) listed[d] = true;
  }
  for (uint32_t d = 0; d < out; ++d) {
    const int32_t own = position_of<float>(axis, d).low;
    const bool begins = d == 0 || position_of<float>(axis, d - 1).low != own;
    const bool ends = d + 1 == out || position_of<float>(axis, d + 1).low != own;
    if (interpolation != Interpolation::kNearest) {
      expect(listed[d] || !(begins || ends), "listed", {in, out, d, static_cast<long>(interpolation)});
    }
  }
  if (interpolation == Interpolation::kNearest) {  // all samples of an interval are equal: one of them will do
    std::vector<bool> wanted(in), met(in);
    for (uint32_t d = 0; d < out; ++d) {
      wanted[position_of<float>(axis, d).low] = true;
      if (listed[d]) met[position_of<float>(axis, d).low] = true;
    }
    for (uint32_t i = 0; i < in; ++i) expect(met[i] || !wanted[i], "listed", {in, out, i, 2});
  }
}

}  // namespace

int main() {
  constexpr Interpolation kAll[] = {Interpolation::kBilinear, Interpolation::kBilinearCorners, Interpolation::kNearest};
  for (Interpolation interpolation : kAll) {
    for (uint32_t in = 1; in <= 40; ++in) {
      for (uint32_t out = 1; out <= 260; ++out) check_extremes(in, out, interpolation);
    }
    check_extremes(100, 32767, interpolation);
    check_extremes(16000, 32767, interpolation);
    for (const Case& c : {Case{7, 7, 32, 300, interpolation}, Case{1, 1, 3, 2, interpolation},
                          Case{13, 17, 9, 11, interpolation}, Case{5, 3, 21, 20, interpolation}}) {
      for (int bits = 0; bits < 16; ++bits) {
        check(c, {{c.height, c.out_height, interpolation},
                  {c.width, c.out_width, interpolation},
                  (bits & 1) != 0,
                  (bits & 2) != 0,
                  (bits & 4) != 0,
                  (bits & 8) != 0,
                  1e-7f});
      }
    }
  }
  std::printf("%d failures\n", whylight::testing::failures);
  return whylight::testing::failures != 0;
}
