// Runs the CUDA kernels that follow the GEMM of a Gram matrix under the emulator, in three orders of threads and
// blocks, against double precision.
#include "../gram/gram_launch.cuh"
#include "expect.h"

namespace {

using namespace whylight;
using namespace whylight::gram;
using namespace whylight::testing;

struct Case {
  long matrices, channels;
  bool shared_target;
};

// As a GEMM that skips it leaves it: what lies below the diagonal is never read.
std::vector<float> upper_only(const Case& c) {
  std::vector<float> gram = normal(c.matrices * c.channels * c.channels, 1);
  for (size_t i = 0; i < gram.size(); ++i) {
    if (static_cast<long>(i) / c.channels % c.channels > static_cast<long>(i) % c.channels) gram[i] = NAN;
  }
  return gram;
}

void check(const Case& c) {
  const std::vector<long> where{c.matrices, c.channels, c.shared_target};
  const long area = c.channels * c.channels;
  const std::vector<float> given = upper_only(c), target = normal((c.shared_target ? 1 : c.matrices) * area, 2);
  const Shape shape = shape_of_matrices(static_cast<int>(c.channels), c.shared_target ? 0 : area);
  std::vector<float> first;
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::order = order;
    std::vector<float> mirrored = given, gram = given;
    std::vector<float> sums = poisoned(c.matrices * shape.pairs), squares = poisoned(c.matrices);
    mirror(shape, c.matrices, mirrored.data(), nullptr);
    difference(shape, c.matrices, gram.data(), target.data(), sums.data(), squares.data(), nullptr);
    for (long n = 0; n < c.matrices; ++n) {
      double sum = 0;
      for (long i = 0; i < c.channels; ++i) {
        for (long j = 0; j < c.channels; ++j) {
          const long own = n * area, goal = c.shared_target ? 0 : own, ij = i * c.channels + j, ji = j * c.channels + i;
          const float entry = given[own + (i <= j ? ij : ji)];
          const double d = double(entry) - target[goal + ij], turned = double(entry) - target[goal + ji];
          sum += d * d;
          expect(mirrored[own + ij] == entry, "mirrored entry", where);
          expect(close(gram[own + ij], (d + turned) / 2, 1e-6), "difference", where);
          expect(gram[own + ij] == gram[own + ji], "symmetry", where);
        }
      }
      expect(close(squares[n], sum, 1e-5), "sum of squares", where);
    }
    gram.insert(gram.end(), squares.begin(), squares.end());
    expect(first.empty() || same_bits(first, gram), "same bits in another order of threads", where);
    first = gram;
  }
}

}  // namespace

int main() {
  for (long channels : {1, 7, 31, 32, 33, 64, 100}) {
    for (bool shared : {false, true}) check({2, channels, shared});
  }
  check({1, 750, false});  // 300 pairs of tiles: more than a block of add_sums has threads
  for (int pair = 0, column = 0; column < 6000; ++column) {
    for (int row = 0; row <= column; ++row, ++pair) {
      const Tile tile = tile_of(pair);
      if (tile.row != row || tile.column != column) expect(false, "tile", {pair, row, column});
    }
  }
  std::printf("%d failures\n", whylight::testing::failures);
  return whylight::testing::failures != 0;
}
