// tv_loss and its gradients on the CPU: bands of rows in parallel, then the sums of an image's bands in a fixed order.
//
// A band is a fixed number of rows of one plane, chosen by the shape of an image alone, and sums its columns before it
// sums over them, so that a loss's bits depend on neither the batch nor the number of threads. A gradient is gathered:
// each band computes the fluxes of its own rows and of the one above, and every element is written once.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "../common/dispatch.h"
#include "../common/vectorise.h"
#include "tv_loss_args.h"
#include "tv_loss_math.h"

namespace whylight::tv_loss {
namespace {

constexpr int64_t kPad = 16;                   // buffers are whole vectors: no loop over them has a remainder
constexpr int64_t kElementsPerBand = 1 << 13;  // few enough that a single image occupies several threads
constexpr int64_t kElementsPerTask = 1 << 15;  // below this, handing work to a thread costs more than it saves
constexpr int64_t kRowsPerBandAtLeast = 16;    // of which a gradient computes one twice
constexpr int64_t kRowsPerBandAtMost = 128;    // that a column's sum is made of

// Everything that a band needs to know, T being the type that is computed in.
template <class T>
struct Work {
  const void* image;
  ScalarType type;
  Layout layout;
  Constants<T> constants;
  Power power;
  bool isotropic;
  int64_t rows_per_band, bands;
  double* sums;       // [images, planes, bands], or null for no loss
  void* gradient;     // of `type`, or null for none
  const T* upstream;  // gradients of the losses, or null for 1
  int64_t upstream_stride;
};

// Rows of a band, each `padded` long; what lies beyond a row is 0.
template <class T>
struct Buffers {
  T* rows;  // [2], converted, of images in another type
  T* dx;
  T* dy;
  T* sums;
  T* across;  // after `padded` zeros: what is to the left of the first pixel
  T* down;    // [2]
  T* result;

  static int64_t size(int64_t padded) { return 10 * padded; }
  WHYLIGHT_INLINE Buffers(T* memory, int64_t padded)
      : rows(memory),
        dx(rows + 2 * padded),
        dy(dx + padded),
        sums(dy + padded),
        across(sums + 2 * padded),
        down(across + padded),
        result(down + 2 * padded) {}
};

WHYLIGHT_INLINE uint16_t bfloat16_of(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value == value ? rounded : 0x7fc0u);
}

// To the nearest, ties to even, without branches or table: scaling up and down sends what is too large to infinity, and
// adding a power of two that depends on the exponent rounds the mantissa (Marat Dukhan, FP16, MIT).
WHYLIGHT_INLINE uint16_t half_of(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t twice = bits + bits;
  const float base = (float_of(bits & 0x7fffffffu) * 0x1.0p+112f) * 0x1.0p-110f;
  const uint32_t exponent = twice & 0xff000000u;
  const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
  const uint32_t sum = bits_of(float_of((bias >> 1) + 0x07800000u) + base);
  const uint32_t magnitude = ((sum >> 13) & 0x7c00u) + (sum & 0x0fffu);
  return static_cast<uint16_t>(((bits >> 16) & 0x8000u) | (twice > 0xff000000u ? 0x7e00u : magnitude));
}

// A row as T: where it lies if that is its type, else converted into `buffer`.
template <class T>
WHYLIGHT_INLINE const T* load_row(const Work<T>& work, int64_t offset, T* buffer) {
  const int64_t length = work.layout.length;
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto* source = static_cast<const uint16_t*>(work.image) + offset;
    if (work.type == ScalarType::Half) {
      for (int64_t i = 0; i < length; ++i) buffer[i] = half_to_float(source[i]);
      return buffer;
    }
    if (work.type == ScalarType::BFloat16) {
      for (int64_t i = 0; i < length; ++i) buffer[i] = bfloat16_to_float(source[i]);
      return buffer;
    }
  }
  return static_cast<const T*>(work.image) + offset;
}

// Where a row of the gradient is computed: in its place if that is of type T, else in `buffer`, to be converted.
template <class T>
WHYLIGHT_INLINE T* place_row(const Work<T>& work, int64_t offset, T* buffer) {
  const bool narrow = work.type == ScalarType::Half || work.type == ScalarType::BFloat16;
  return narrow ? buffer : static_cast<T*>(work.gradient) + offset;
}

template <class T>
WHYLIGHT_INLINE void store_row(const Work<T>& work, int64_t offset, const T* buffer) {
  if constexpr (sizeof(T) == sizeof(float)) {
    const int64_t length = work.layout.length;
    auto* target = static_cast<uint16_t*>(work.gradient) + offset;
    if (work.type == ScalarType::Half) {
      for (int64_t i = 0; i < length; ++i) target[i] = half_of(buffer[i]);
    } else if (work.type == ScalarType::BFloat16) {
      for (int64_t i = 0; i < length; ++i) target[i] = bfloat16_of(buffer[i]);
    }
  }
}

template <class T>
WHYLIGHT_INLINE void subtract(const T* a, const T* b, int64_t count, T* result) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) result[i] = a[i] - b[i];
}

template <Power P, bool kIsotropic, bool kLoss, class T>
WHYLIGHT_INLINE void walk_row(const Constants<T>& constants, int64_t padded, const T* __restrict dx,
                              const T* __restrict dy, T* __restrict sums, T* __restrict across, T* __restrict down) {
#pragma omp simd
  for (int64_t i = 0; i < padded; ++i) {
    const Pixel<T> pixel = pixel_of<P, kIsotropic>(dx[i], dy[i], constants);
    if (kLoss) sums[i] += pixel.value;
    across[i] = pixel.across;
    down[i] = pixel.down;
  }
}

template <class T>
WHYLIGHT_INLINE T widened(T value) {
  return value;
}
WHYLIGHT_INLINE float widened(BFloat16 value) {
  return bfloat16_to_float(value.bits);
}

// What a pixel adds to the loss; `below` is null in the last row.
template <Power P, bool kIsotropic, bool kBelow, class E, class T>
WHYLIGHT_INLINE T value_of(const Constants<T>& constants, const E* pixel, const E* right, const E* below) {
  const T here = widened(*pixel);
  return pixel_of<P, kIsotropic>(widened(*right) - here, kBelow ? widened(*below) - here : T(0), constants).value;
}

template <Power P, bool kIsotropic, bool kBelow, class E, class T>
WHYLIGHT_INLINE void add_pixels(const Constants<T>& constants, int64_t length, int64_t step, const E* row,
                                const E* below, T* __restrict sums) {
  const int64_t last = length - step;  // the pixel without a right neighbour
  const int64_t body = last / kPad * kPad, rest = last - body;
#pragma omp simd
  for (int64_t i = 0; i < body; ++i) {
    sums[i] += value_of<P, kIsotropic, kBelow>(constants, row + i, row + i + step, below + i);
  }
  if (body) {
    // What is left, as the end of a whole vector that overlaps the body, since pixels one by one cost more.
    const int64_t begin = last - kPad;
#pragma omp simd
    for (int64_t j = 0; j < kPad; ++j) {
      const int64_t i = begin + j;
      const T value = value_of<P, kIsotropic, kBelow>(constants, row + i, row + i + step, below + i);
      sums[i] += j >= kPad - rest ? value : T(0);
    }
  } else {
    for (int64_t i = 0; i < last; ++i) {
      sums[i] += value_of<P, kIsotropic, kBelow>(constants, row + i, row + i + step, below + i);
    }
  }
  if (!kBelow) return;
  for (int64_t i = last; i < length; ++i) {
    sums[i] += value_of<P, kIsotropic, kBelow>(constants, row + i, row + i, below + i);
  }
}

template <Power P, bool kIsotropic, class E, class T>
WHYLIGHT_INLINE void add_row(const Work<T>& work, int64_t y, const E* row, const E* below, T* sums) {
  if (y + 1 == work.layout.rows) {
    add_pixels<P, kIsotropic, false>(work.constants, work.layout.length, work.layout.step, row, row, sums);
  } else {
    add_pixels<P, kIsotropic, true>(work.constants, work.layout.length, work.layout.step, row, below, sums);
  }
}

// Of the rows that lie in memory as E, without buffers between them and their sums.
template <Power P, bool kIsotropic, class E, class T>
WHYLIGHT_INLINE void add_rows(const Work<T>& work, int64_t begin, int64_t end, int64_t source, T* sums) {
  const int64_t stride = work.layout.source.row;
  const E* rows = static_cast<const E*>(work.image) + source;
  for (int64_t y = begin; y < end; ++y) {
    add_row<P, kIsotropic>(work, y, rows + y * stride, rows + (y + 1) * stride, sums);
  }
}

// Which rows of which plane a band has.
struct Band {
  int64_t image, plane, begin, end;
};

template <class T>
WHYLIGHT_INLINE Band band_of(const Work<T>& work, int64_t job) {
  const int64_t begin = job % work.bands * work.rows_per_band;
  return {job / work.bands / work.layout.planes, job / work.bands % work.layout.planes, begin,
          std::min(begin + work.rows_per_band, work.layout.rows)};
}

template <class T>
WHYLIGHT_INLINE double total_of(const T* sums, int64_t padded) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < padded; ++i) sum += static_cast<double>(sums[i]);
  return sum;
}

// The loss of a band alone.
template <Power P, bool kIsotropic, class T>
WHYLIGHT_INLINE void add_band(const Work<T>& work, int64_t job, T* memory) {
  const Layout& layout = work.layout;
  const int64_t padded = (layout.length + kPad - 1) / kPad * kPad;
  const Band band = band_of(work, job);
  const int64_t source = band.image * layout.source.image + band.plane * layout.source.plane;
  Buffers<T> buffer(memory, padded);
  std::fill_n(buffer.sums, padded, T(0));
  if (work.type == ScalarType::BFloat16) {
    add_rows<P, kIsotropic, BFloat16>(work, band.begin, band.end, source, buffer.sums);
  } else if (work.type == ScalarType::Half) {
    const auto load = [&](int64_t y) WHYLIGHT_INLINE_LAMBDA {
      return load_row(work, source + y * layout.source.row, buffer.rows + y % 2 * padded);
    };
    const T* row = load(band.begin);
    for (int64_t y = band.begin; y < band.end; ++y) {
      const T* below = y + 1 < layout.rows ? load(y + 1) : row;
      add_row<P, kIsotropic>(work, y, row, below, buffer.sums);
      row = below;
    }
  } else {
    add_rows<P, kIsotropic, T>(work, band.begin, band.end, source, buffer.sums);
  }
  work.sums[job] = total_of(buffer.sums, padded);
}

// The gradient of a band, with or without its loss.
template <Power P, bool kIsotropic, bool kLoss, class T>
WHYLIGHT_INLINE void walk_band(const Work<T>& work, int64_t job, T* memory) {
  const Layout& layout = work.layout;
  const int64_t length = layout.length, step = layout.step, padded = (length + kPad - 1) / kPad * kPad;
  const Band band = band_of(work, job);
  const int64_t source = band.image * layout.source.image + band.plane * layout.source.plane;
  Buffers<T> buffer(memory, padded);
  std::fill_n(memory, Buffers<T>::size(padded), T(0));
  T upstream = 1;
  if (work.upstream) upstream = work.upstream[band.image * work.upstream_stride];
  // It begins in the row above its first: only for the flux out of it.
  const int64_t first = std::max<int64_t>(band.begin - 1, 0);
  const T* row = load_row(work, source + first * layout.source.row, buffer.rows + first % 2 * padded);
  for (int64_t y = first; y < band.end; ++y) {
    const bool is_last = y + 1 == layout.rows;
    const T* below =
        is_last ? row : load_row(work, source + (y + 1) * layout.source.row, buffer.rows + (y + 1) % 2 * padded);
    subtract(row + step, row, length - step, buffer.dx);
    if (is_last) {
      std::fill_n(buffer.dy, length, T(0));
    } else {
      subtract(below, row, length, buffer.dy);
    }
    T* down = buffer.down + y % 2 * padded;
    if (y < band.begin) {
      walk_row<P, kIsotropic, false>(work.constants, padded, buffer.dx, buffer.dy, buffer.sums, buffer.across, down);
    } else {
      walk_row<P, kIsotropic, kLoss>(work.constants, padded, buffer.dx, buffer.dy, buffer.sums, buffer.across, down);
      const T* above = buffer.down + (y + 1) % 2 * padded;
      const T* left = buffer.across - step;
      const T* across = buffer.across;
      const Strides& strides = layout.gradient;
      const int64_t target = band.image * strides.image + band.plane * strides.plane + y * strides.row;
      T* result = place_row(work, target, buffer.result);
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        result[i] = upstream * ((left[i] - across[i]) + (above[i] - down[i]));
      }
      store_row(work, target, buffer.result);
    }
    row = below;
  }
  if (kLoss) work.sums[job] = total_of(buffer.sums, padded);
}

template <Power P, bool kIsotropic, class T>
WHYLIGHT_INLINE void walk_bands(const Work<T>& work, int64_t begin, int64_t end, T* memory) {
  for (int64_t job = begin; job < end; ++job) {
    if (!work.gradient) {
      add_band<P, kIsotropic>(work, job, memory);
    } else if (!work.sums) {
      walk_band<P, kIsotropic, false>(work, job, memory);
    } else {
      walk_band<P, kIsotropic, true>(work, job, memory);
    }
  }
}

template <class T>
WHYLIGHT_INLINE void walk_any(const Work<T>& work, int64_t begin, int64_t end, T* memory) {
  switch (work.power) {
    case Power::kSquare:  // both modes are the same
      return walk_bands<Power::kSquare, true>(work, begin, end, memory);
    case Power::kFirst:
      return work.isotropic ? walk_bands<Power::kFirst, true>(work, begin, end, memory)
                            : walk_bands<Power::kFirst, false>(work, begin, end, memory);
    case Power::kGeneral:
      return work.isotropic ? walk_bands<Power::kGeneral, true>(work, begin, end, memory)
                            : walk_bands<Power::kGeneral, false>(work, begin, end, memory);
  }
}

WHYLIGHT_CLONES void walk(const Work<float>& work, int64_t begin, int64_t end, float* memory) {
  walk_any(work, begin, end, memory);
}

WHYLIGHT_CLONES void walk(const Work<double>& work, int64_t begin, int64_t end, double* memory) {
  walk_any(work, begin, end, memory);
}

// Fills in `loss` [N] and `gradient`, the ones that there are.
template <class T>
void run(const Arguments& arguments, double beta, double eps, bool isotropic, Tensor* loss, Tensor* gradient,
         const Tensor* upstream) {
  const Layout& layout = arguments.layout;
  const int64_t rows_per_band =
      std::clamp((kElementsPerBand + layout.length - 1) / layout.length, kRowsPerBandAtLeast, kRowsPerBandAtMost);
  const int64_t bands = (layout.rows + rows_per_band - 1) / rows_per_band;
  const int64_t per_image = layout.planes * bands, jobs = layout.images * per_image;
  const std::unique_ptr<double[]> sums(loss ? new double[jobs] : nullptr);
  const Work<T> work{arguments.image.const_data_ptr(),
                     arguments.image.scalar_type(),
                     layout,
                     constants_of<T>(beta, eps),
                     power_of(beta, eps, isotropic),
                     isotropic,
                     rows_per_band,
                     bands,
                     sums.get(),
                     gradient ? gradient->mutable_data_ptr() : nullptr,
                     upstream ? upstream->const_data_ptr<T>() : nullptr,
                     upstream ? upstream->stride(0) : 0};
  const int64_t padded = (layout.length + kPad - 1) / kPad * kPad;
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / (std::min(rows_per_band, layout.rows) * layout.length));
  torch::stable::parallel_for(0, jobs, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<T[]> memory(new T[Buffers<T>::size(padded)]);
    walk(work, begin, end, memory.get());
  });
  if (!loss) return;
  T* losses = loss->mutable_data_ptr<T>();
  for (int64_t n = 0; n < layout.images; ++n) {
    double sum = 0;
    for (int64_t i = 0; i < per_image; ++i) sum += sums[n * per_image + i];
    losses[n] = static_cast<T>(sum);
  }
}

void run_either(const Arguments& arguments, double beta, double eps, bool isotropic, Tensor* loss, Tensor* gradient,
                const Tensor* upstream) {
  if (arguments.empty) {
    if (loss) torch::stable::zero_(*loss);
  } else if (arguments.image.scalar_type() == ScalarType::Double) {
    run<double>(arguments, beta, eps, isotropic, loss, gradient, upstream);
  } else {
    run<float>(arguments, beta, eps, isotropic, loss, gradient, upstream);
  }
}

Tensor tv_loss_cpu(const Tensor& image, double beta, double eps, bool isotropic) {
  const Arguments arguments = check_arguments("tv_loss", image, beta, eps);
  Tensor loss = empty_loss(image);
  run_either(arguments, beta, eps, isotropic, &loss, nullptr, nullptr);
  return loss;
}

Tensor tv_loss_backward_cpu(const Tensor& upstream, const Tensor& image, double beta, double eps, bool isotropic) {
  const Arguments arguments = check_arguments("tv_loss_backward", image, beta, eps);
  check_upstream(upstream, arguments, loss_type(image));
  Tensor gradient = empty_gradient(arguments);
  run_either(arguments, beta, eps, isotropic, nullptr, &gradient, &upstream);
  return gradient;
}

std::tuple<Tensor, Tensor> tv_loss_with_gradient_cpu(const Tensor& image, double beta, double eps, bool isotropic) {
  const Arguments arguments = check_arguments("tv_loss_with_gradient", image, beta, eps);
  Tensor loss = empty_loss(image), gradient = empty_gradient(arguments);
  run_either(arguments, beta, eps, isotropic, &loss, &gradient, nullptr);
  return {loss, gradient};
}

}  // namespace
}  // namespace whylight::tv_loss

STABLE_TORCH_LIBRARY_IMPL(whylight, CPU, m) {
  m.impl("tv_loss", TORCH_BOX(&whylight::tv_loss::tv_loss_cpu));
  m.impl("tv_loss_raw", TORCH_BOX(&whylight::tv_loss::tv_loss_cpu));
  m.impl("tv_loss_backward", TORCH_BOX(&whylight::tv_loss::tv_loss_backward_cpu));
  m.impl("tv_loss_with_gradient", TORCH_BOX(&whylight::tv_loss::tv_loss_with_gradient_cpu));
}
