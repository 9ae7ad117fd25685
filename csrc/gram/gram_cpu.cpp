// What follows the GEMM of a Gram matrix on the CPU: tile beside mirrored tile, in place, in one pass. What lies below
// the diagonal is written but never read, so that the GEMM need not compute it.
//
// A task is a block of tiles above the diagonal and its mirror image below, of one matrix; the tasks' sums are added in
// a fixed order. So the bits of a result depend on neither the batch nor the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "../common/vectorise.h"
#include "gram_args.h"
#include "gram_math.h"

namespace whylight::gram {
namespace {

constexpr int64_t kTile = 48;                  // of rows and columns; by measurement, 32 and 64 are slower
constexpr int64_t kBlock = 4 * kTile;          // of tiles of a task: below the diagonal, every row is another page
constexpr int64_t kElementsPerTask = 1 << 15;  // below this, handing work to a thread costs more than it saves

template <class T>
struct Work {
  T* gram;          // [N, C, C]
  const T* target;  // [C, C] or [N, C, C]
  T* sums;          // [N, tasks per matrix]
  Arguments arguments;

  int64_t blocks() const { return (arguments.channels + kBlock - 1) / kBlock; }
  int64_t tasks_per_matrix() const { return blocks() * (blocks() + 1) / 2; }
};

// Turns a tile: `rows` x `columns` of `to` from the `columns` x `rows` of `from`. Whole rows are written, so that of
// the two strides it is the one within a tile's buffer that is walked.
template <class T>
WHYLIGHT_INLINE void turn(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[r * to_stride + c] = from[c * from_stride + r];
  }
}

// A tile into a buffer, and back.
template <class T>
WHYLIGHT_INLINE void take(const T* from, int64_t stride, int64_t rows, int64_t columns, T* tile) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) tile[r * kTile + c] = from[r * stride + c];
  }
}

// Asks for the rows of a tile ahead of time: they lie too far apart for the processor to foresee them.
template <class T>
WHYLIGHT_INLINE void fetch(const T* from, int64_t stride, int64_t rows, int64_t columns) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += line) __builtin_prefetch(from + r * stride + c);
    __builtin_prefetch(from + r * stride + columns - 1);
  }
}

// Asks for all that finish_tiles reads and writes.
template <bool HasTarget, class T>
WHYLIGHT_INLINE void fetch_tiles(const Work<T>& work, int64_t matrix, int64_t row, int64_t column) {
  const int64_t channels = work.arguments.channels;
  const int64_t rows = std::min(kTile, channels - row), columns = std::min(kTile, channels - column);
  const int64_t upper = row * channels + column, lower = column * channels + row;
  const T* gram = work.gram + matrix * channels * channels;
  fetch(gram + upper, channels, rows, columns);
  fetch(gram + lower, channels, columns, rows);
  if constexpr (HasTarget) {
    const T* target = work.target + matrix * work.arguments.target_stride;
    fetch(target + upper, channels, rows, columns);
    fetch(target + lower, channels, columns, rows);
  }
}

// The tile at (row, column), row <= column, which its mirror image then equals; with a target, both become the
// symmetric part of the difference to it. Returns the sum of squares of that difference.
template <bool HasTarget, bool Diagonal, class T>
WHYLIGHT_INLINE T finish_tiles(const Work<T>& work, int64_t matrix, int64_t row, int64_t column) {
  const int64_t channels = work.arguments.channels;
  const int64_t rows = std::min(kTile, channels - row), columns = std::min(kTile, channels - column);
  const int64_t lower = column * channels + row;
  T* gram = work.gram + matrix * channels * channels;
  T* upper = gram + row * channels + column;
  T tile[kTile * kTile], turned[kTile * kTile], sums[kTile] = {};
  if constexpr (Diagonal) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < i; ++j) upper[i * channels + j] = upper[j * channels + i];
    }
  }
  if constexpr (HasTarget) {
    const T* target = work.target + matrix * work.arguments.target_stride;
    take(target + lower, channels, columns, rows, tile);
    turn(tile, kTile, turned, kTile, rows, columns);
    for (int64_t i = 0; i < rows; ++i) {
      T* here = upper + i * channels;
      const T* target_here = target + row * channels + column + i * channels;
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) {
        const Differences<T> d = differences_of(here[j], target_here[j], turned[i * kTile + j]);
        sums[j] += Diagonal ? d.upper * d.upper : d.upper * d.upper + d.lower * d.lower;
        here[j] = tile[i * kTile + j] = symmetric_part(d);
      }
    }
  } else if constexpr (!Diagonal) {
    take(upper, channels, rows, columns, tile);
  }
  if constexpr (!Diagonal) turn(tile, kTile, gram + lower, channels, columns, rows);
  T sum = 0;
  for (int64_t j = 0; j < kTile; ++j) sum += sums[j];
  return sum;
}

// The tiles on and above the diagonal of the block at (row, column), and their mirror images.
template <bool HasTarget, class T>
WHYLIGHT_INLINE T finish_block(const Work<T>& work, int64_t matrix, int64_t row, int64_t column) {
  const int64_t channels = work.arguments.channels;
  const int64_t last_row = std::min(row + kBlock, channels), last_column = std::min(column + kBlock, channels);
  T sum = 0;
  for (int64_t r = row; r < last_row; r += kTile) {
    for (int64_t c = std::max(column, r); c < last_column; c += kTile) {
      const bool ends_row = c + kTile >= last_column;
      const int64_t next_row = ends_row ? r + kTile : r,
                    next_column = ends_row ? std::max(column, next_row) : c + kTile;
      if (next_row < last_row) fetch_tiles<HasTarget>(work, matrix, next_row, next_column);
      sum += r == c ? finish_tiles<HasTarget, true>(work, matrix, r, c)
                    : finish_tiles<HasTarget, false>(work, matrix, r, c);
    }
  }
  return sum;
}

template <bool HasTarget, class T>
WHYLIGHT_INLINE void finish_any(const Work<T>& work, int64_t begin, int64_t end) {
  const int64_t blocks = work.blocks(), per_matrix = work.tasks_per_matrix();
  int64_t row = 0, first = 0;  // the tasks of a matrix go row by row of blocks; `first` is the first one of `row`
  for (int64_t task = begin; task < end; ++task) {
    const int64_t within = task % per_matrix;
    if (within < first) row = first = 0;
    while (within >= first + blocks - row) first += blocks - row++;
    const T sum = finish_block<HasTarget>(work, task / per_matrix, row * kBlock, (row + within - first) * kBlock);
    if constexpr (HasTarget) work.sums[task] = sum;
  }
}

template <class T>
WHYLIGHT_INLINE void finish_one(const Work<T>& work, int64_t begin, int64_t end) {
  if (work.target) {
    finish_any<true>(work, begin, end);
  } else {
    finish_any<false>(work, begin, end);
  }
}

WHYLIGHT_CLONES void finish(const Work<float>& work, int64_t begin, int64_t end) {
  finish_one(work, begin, end);
}

WHYLIGHT_CLONES void finish(const Work<double>& work, int64_t begin, int64_t end) {
  finish_one(work, begin, end);
}

template <class T>
void run(const Work<T>& work) {
  const int64_t tasks = work.arguments.matrices * work.tasks_per_matrix();
  constexpr int64_t grain = std::max<int64_t>(1, kElementsPerTask / (2 * kBlock * kBlock));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { finish(work, begin, end); });
}

template <class T>
void difference(const Tensor& gram, const Tensor& target, const Arguments& arguments, const Tensor& squares) {
  Work<T> work{gram.mutable_data_ptr<T>(), target.const_data_ptr<T>(), nullptr, arguments};
  const int64_t per_matrix = work.tasks_per_matrix();
  const std::unique_ptr<T[]> sums(new T[arguments.matrices * per_matrix]);
  work.sums = sums.get();
  run(work);
  T* out = squares.mutable_data_ptr<T>();
  for (int64_t n = 0; n < arguments.matrices; ++n) {
    double sum = 0;
    for (int64_t task = 0; task < per_matrix; ++task) sum += static_cast<double>(sums[n * per_matrix + task]);
    out[n] = static_cast<T>(sum);
  }
}

void gram_mirror_cpu(const Tensor& gram) {
  const Arguments arguments = check_arguments("gram_mirror_", gram);
  if (gram.scalar_type() == ScalarType::Double) {
    run(Work<double>{gram.mutable_data_ptr<double>(), nullptr, nullptr, arguments});
  } else {
    run(Work<float>{gram.mutable_data_ptr<float>(), nullptr, nullptr, arguments});
  }
}

Tensor gram_difference_cpu(const Tensor& gram, const Tensor& target) {
  const Arguments arguments = check_arguments("gram_difference_", gram, target);
  const Tensor laid = torch::stable::contiguous(target);
  Tensor squares = torch::stable::new_empty(gram, {arguments.matrices}, gram.scalar_type());
  if (arguments.channels == 0) return torch::stable::fill_(squares, 0);
  if (gram.scalar_type() == ScalarType::Double) {
    difference<double>(gram, laid, arguments, squares);
  } else {
    difference<float>(gram, laid, arguments, squares);
  }
  return squares;
}

}  // namespace
}  // namespace whylight::gram

STABLE_TORCH_LIBRARY_IMPL(whylight, CPU, m) {
  m.impl("gram_mirror_", TORCH_BOX(&whylight::gram::gram_mirror_cpu));
  m.impl("gram_difference_", TORCH_BOX(&whylight::gram::gram_difference_cpu));
}
