// cam_render and cam_overlay on the CPU: first each map is prepared and measured at its own size, then bands of rows
// are drawn in parallel. Only rows that are being drawn exist at full size.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "../common/vectorise.h"
#include "cam_render_args.h"

namespace whylight::cam_render {
namespace {

constexpr int64_t kRowsPerBand = 16;
constexpr int64_t kPixelsPerTask = 1 << 15;  // below this, handing work to a thread costs more than it saves

// The positions of some samples of an axis, member by member so that loops over them vectorise.
template <class T>
struct Table {
  std::vector<int32_t> low, high;
  std::vector<T> fraction;

  void reserve(int64_t count) {
    low.reserve(count);
    high.reserve(count);
    fraction.reserve(count);
  }
  void add(const Axis& axis, uint32_t sample) {
    const Position<T> position = position_of<T>(axis, sample);
    low.push_back(position.low);
    high.push_back(position.high);
    fraction.push_back(position.fraction);
  }
  int64_t size() const { return static_cast<int64_t>(low.size()); }
};

template <class T>
struct Drawing {
  const T* maps;
  int64_t height, width;  // of a map
  Axis rows_axis;
  Table<T> rows, columns, extreme_rows, extreme_columns;
  bool rectify, is_signed, before, after;
  T eps;
  T* low;                           // [M]
  T* high;                          // [M]
  T* prepared;                      // [M, height, width]
  Normalisation<T>* normalisation;  // [M], of the resized map
  // One of these is the output, [M, H, W] of a type or [M, H, W, 3] bytes.
  Output output;
  void* values;
  const uint32_t* colours;  // [256], three bytes of each a colour; or null
  Images images;
};

// A row of the map at the samples of `table`.
template <class T>
WHYLIGHT_INLINE void widen(const T* __restrict row, const Table<T>& table, T* __restrict out) {
  const int32_t* __restrict low = table.low.data();
  const int32_t* __restrict high = table.high.data();
  const T* __restrict fraction = table.fraction.data();
  const int64_t count = table.size();
#pragma omp simd
  for (int64_t x = 0; x < count; ++x) out[x] = between(row[low[x]], row[high[x]], fraction[x]);
}

// Two neighbouring rows of a map at the samples of a table, kept while the output walks down the map.
template <class T>
class Rows {
 public:
  WHYLIGHT_INLINE Rows(const T* map, int64_t width, const Table<T>& columns, T* scratch)
      : map_(map), width_(width), columns_(columns), upper_(scratch), lower_(scratch + columns.size()) {}

  WHYLIGHT_INLINE void at(int32_t low, int32_t high, T fraction, T* __restrict out) {
    if (low != upper_row_) {
      if (low == lower_row_) {
        std::swap(upper_, lower_);
        std::swap(upper_row_, lower_row_);
      } else {
        widen(map_ + low * width_, columns_, upper_);
        upper_row_ = low;
      }
    }
    if (high != low && high != lower_row_) {
      widen(map_ + high * width_, columns_, lower_);
      lower_row_ = high;
    }
    const T* __restrict a = upper_;
    const T* __restrict b = high == low ? upper_ : lower_;
    const int64_t count = columns_.size();
#pragma omp simd
    for (int64_t x = 0; x < count; ++x) out[x] = between(a[x], b[x], fraction);
  }

 private:
  const T* map_;
  int64_t width_;
  const Table<T>& columns_;
  T* upper_;
  T* lower_;
  int32_t upper_row_ = -1, lower_row_ = -1;
};

// Minimum and maximum, NaN if any value is.
template <class T>
WHYLIGHT_INLINE void widen_range(const T* values, int64_t count, T& low, T& high) {
  T least = values[0], most = values[0];
  int32_t unordered = 0;
#pragma omp simd reduction(min : least) reduction(max : most) reduction(| : unordered)
  for (int64_t i = 0; i < count; ++i) {
    least = values[i] < least ? values[i] : least;
    most = values[i] > most ? values[i] : most;
    unordered |= values[i] != values[i];
  }
  const T poison = unordered ? static_cast<T>(NAN) : T(0);
  low = lower(low, least + poison);
  high = upper(high, most + poison);
}

template <class T>
WHYLIGHT_INLINE void normalise_all(T* values, int64_t count, const Normalisation<T>& n) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) values[i] = normalised(values[i], n);
}

// Rectifies and measures map m, normalises it at its own size, and finds the range that it will have at full size.
template <class T>
WHYLIGHT_INLINE void prepare(const Drawing<T>& drawing, int64_t m, T* scratch) {
  const int64_t count = drawing.height * drawing.width;
  const T* map = drawing.maps + m * count;
  T* prepared = drawing.prepared + m * count;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) prepared[i] = drawing.rectify ? positive_part(map[i]) : map[i];
  T low = prepared[0], high = prepared[0];
  widen_range(prepared, count, low, high);
  drawing.low[m] = low;
  drawing.high[m] = high;
  if (drawing.before) {
    normalise_all(prepared, count, normalisation_of(low, high, drawing.eps, drawing.is_signed));
  }
  if (!drawing.after) return;
  const int64_t columns = drawing.extreme_columns.size();
  Rows<T> rows(prepared, drawing.width, drawing.extreme_columns, scratch);
  T* sampled = scratch + 2 * columns;
  for (int64_t y = 0; y < drawing.extreme_rows.size(); ++y) {
    rows.at(drawing.extreme_rows.low[y], drawing.extreme_rows.high[y], drawing.extreme_rows.fraction[y], sampled);
    if (y == 0) low = high = sampled[0];
    widen_range(sampled, columns, low, high);
  }
  drawing.normalisation[m] = normalisation_of(low, high, drawing.eps, drawing.is_signed);
}

// A row of indices as colours, laid over a row of a picture if there is one.
WHYLIGHT_INLINE void colour(const int32_t* index, int64_t width, const uint32_t* colours, const Images& images,
                            const uint8_t* image, uint8_t* out) {
  // Four bytes at once, of which the next pixel overwrites the last.
  for (int64_t x = 0; x + 1 < width; ++x) std::memcpy(out + 3 * x, colours + index[x], 4);
  std::memcpy(out + 3 * (width - 1), colours + index[width - 1], 3);
  if (!image) return;
  if (images.channel == 1 && images.column == 3) {
#pragma omp simd
    for (int64_t i = 0; i < 3 * width; ++i) out[i] = blended(out[i], image[i], images.opacity);
    return;
  }
  for (int64_t x = 0; x < width; ++x) {
    for (int64_t c = 0; c < 3; ++c) {
      const uint8_t pixel = image[x * images.column + c * images.channel];
      out[3 * x + c] = blended(out[3 * x + c], pixel, images.opacity);
    }
  }
}

// Rows [begin, end) of map m.
template <class T>
WHYLIGHT_INLINE void draw(const Drawing<T>& drawing, int64_t m, int64_t begin, int64_t end, T* scratch,
                          int32_t* index) {
  const int64_t width = drawing.columns.size(), height = drawing.rows.size();
  const T* map = drawing.prepared + m * drawing.height * drawing.width;
  Rows<T> rows(map, drawing.width, drawing.columns, scratch);
  T* row = scratch + 2 * width;
  for (int64_t y = begin; y < end; ++y) {
    rows.at(drawing.rows.low[y], drawing.rows.high[y], drawing.rows.fraction[y], row);
    if (drawing.after) normalise_all(row, width, drawing.normalisation[m]);
    const int64_t offset = (m * height + y) * width;
    if (drawing.output == Output::kFloat) {
      std::copy_n(row, width, static_cast<float*>(drawing.values) + offset);
    } else if (drawing.output == Output::kDouble) {
      std::copy_n(row, width, static_cast<double*>(drawing.values) + offset);
    } else if (drawing.output == Output::kHalf) {
      auto* out = static_cast<c10::Half*>(drawing.values) + offset;
      for (int64_t x = 0; x < width; ++x) out[x] = static_cast<c10::Half>(static_cast<float>(row[x]));
    } else {
#pragma omp simd
      for (int64_t x = 0; x < width; ++x) index[x] = quantised(row[x], drawing.is_signed);
      if (!drawing.colours) {
        auto* out = static_cast<uint8_t*>(drawing.values) + offset;
#pragma omp simd
        for (int64_t x = 0; x < width; ++x) out[x] = static_cast<uint8_t>(index[x]);
        continue;
      }
      const Images& images = drawing.images;
      const uint8_t* image = images.data ? images.data + m * images.batch + y * images.row : nullptr;
      colour(index, width, drawing.colours, images, image, static_cast<uint8_t*>(drawing.values) + 3 * offset);
    }
  }
}

template <class T>
WHYLIGHT_INLINE void prepare_all(const Drawing<T>& drawing, int64_t begin, int64_t end, T* scratch) {
  for (int64_t m = begin; m < end; ++m) prepare(drawing, m, scratch);
}

template <class T>
WHYLIGHT_INLINE void draw_all(const Drawing<T>& drawing, int64_t begin, int64_t end, T* scratch, int32_t* index) {
  const int64_t height = drawing.rows.size(), bands = (height + kRowsPerBand - 1) / kRowsPerBand;
  for (int64_t job = begin; job < end; ++job) {
    const int64_t first = job % bands * kRowsPerBand;
    draw(drawing, job / bands, first, std::min(first + kRowsPerBand, height), scratch, index);
  }
}

WHYLIGHT_CLONES void prepare_maps(const Drawing<float>& drawing, int64_t begin, int64_t end, float* scratch) {
  prepare_all(drawing, begin, end, scratch);
}

WHYLIGHT_CLONES void prepare_maps(const Drawing<double>& drawing, int64_t begin, int64_t end, double* scratch) {
  prepare_all(drawing, begin, end, scratch);
}

WHYLIGHT_CLONES void draw_bands(const Drawing<float>& drawing, int64_t begin, int64_t end, float* scratch,
                                int32_t* index) {
  draw_all(drawing, begin, end, scratch, index);
}

WHYLIGHT_CLONES void draw_bands(const Drawing<double>& drawing, int64_t begin, int64_t end, double* scratch,
                                int32_t* index) {
  draw_all(drawing, begin, end, scratch, index);
}

template <class T>
void fill(const Axis& axis, bool with_extremes, Table<T>& all, Table<T>& extremes) {
  all.reserve(axis.out);
  for (uint32_t d = 0; d < axis.out; ++d) all.add(axis, d);
  if (!with_extremes) return;
  const uint32_t count = extreme_count(axis);
  extremes.reserve(count);
  for (uint32_t i = 0; i < count; ++i) extremes.add(axis, extreme_at(axis, i));
}

template <class T>
Results run(const Arguments& arguments, Output output, ScalarType range_type, const uint32_t* colours,
            const Images& images) {
  constexpr ScalarType type = sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
  const Tensor& maps = arguments.maps;
  const int64_t count = arguments.count, height = arguments.rows.out, width = arguments.columns.out;
  std::vector<int64_t> shape{count, height, width};
  if (colours) shape.push_back(3);
  Tensor values = torch::stable::new_empty(maps, shape, type_of(output));
  Tensor low = torch::stable::new_empty(maps, {count}, type);
  Tensor high = torch::stable::new_empty(maps, {count}, type);
  if (count > 0) {
    const int64_t area = maps.size(1) * maps.size(2);
    const std::unique_ptr<T[]> prepared(new T[count * area]);
    const std::unique_ptr<Normalisation<T>[]> normalisation(new Normalisation<T>[count]);
    Drawing<T> drawing{maps.const_data_ptr<T>(),
                       maps.size(1),
                       maps.size(2),
                       arguments.rows,
                       {},
                       {},
                       {},
                       {},
                       arguments.rectify,
                       arguments.is_signed,
                       arguments.before,
                       arguments.after,
                       static_cast<T>(arguments.eps),
                       low.mutable_data_ptr<T>(),
                       high.mutable_data_ptr<T>(),
                       prepared.get(),
                       normalisation.get(),
                       output,
                       values.mutable_data_ptr(),
                       colours,
                       images};
    fill(arguments.rows, arguments.after, drawing.rows, drawing.extreme_rows);
    fill(arguments.columns, arguments.after, drawing.columns, drawing.extreme_columns);
    const int64_t measured = area + drawing.extreme_rows.size() * drawing.extreme_columns.size();
    const int64_t maps_per_task = std::max<int64_t>(1, kPixelsPerTask / measured);
    torch::stable::parallel_for(0, count, maps_per_task, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<T[]> scratch(new T[3 * width]);
      prepare_maps(drawing, begin, end, scratch.get());
    });
    const int64_t bands = (height + kRowsPerBand - 1) / kRowsPerBand;
    const int64_t bands_per_task = std::max<int64_t>(1, kPixelsPerTask / (kRowsPerBand * width));
    torch::stable::parallel_for(0, count * bands, bands_per_task, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<T[]> scratch(new T[3 * width]);
      const std::unique_ptr<int32_t[]> index(new int32_t[width]);
      draw_bands(drawing, begin, end, scratch.get(), index.get());
    });
  }
  if (range_type != type) {
    low = torch::stable::to(low, range_type);
    high = torch::stable::to(high, range_type);
  }
  return {values, low, high};
}

Results run_either(const Arguments& arguments, Output output, ScalarType map_type, const uint32_t* colours,
                   const Images& images) {
  const ScalarType range_type = map_type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return arguments.maps.scalar_type() == ScalarType::Double
             ? run<double>(arguments, output, range_type, colours, images)
             : run<float>(arguments, output, range_type, colours, images);
}

Results cam_render_cpu(const Tensor& maps, int64_t height, int64_t width, bool rectify, bool is_signed,
                       int64_t normalise, double eps, int64_t interpolation, int64_t dtype) {
  STD_TORCH_CHECK(dtype >= 0 && dtype <= 3, "cam_render: unknown dtype ", dtype);
  const auto output = static_cast<Output>(dtype);
  const Arguments arguments = check_arguments("cam_render", maps, height, width, rectify, is_signed, normalise, eps,
                                              interpolation, output == Output::kDouble);
  return run_either(arguments, output, maps.scalar_type(), nullptr, {nullptr, 0, 0, 0, 0, 0});
}

Results cam_overlay_cpu(const Tensor& maps, int64_t height, int64_t width, bool rectify, bool is_signed,
                        int64_t normalise, double eps, int64_t interpolation, const Tensor& colours,
                        std::optional<Tensor> images, double opacity) {
  const Arguments arguments =
      check_arguments("cam_overlay", maps, height, width, rectify, is_signed, normalise, eps, interpolation, false);
  check_overlay(arguments, colours, images, opacity);
  const Tensor table = torch::stable::contiguous(colours);
  const auto* bytes = table.const_data_ptr<uint8_t>();
  uint32_t words[256] = {};
  for (int64_t i = 0; i < 256; ++i) std::memcpy(words + i, bytes + 3 * i, 3);
  return run_either(arguments, Output::kByte, maps.scalar_type(), words, images_of(images, opacity));
}

}  // namespace
}  // namespace whylight::cam_render

STABLE_TORCH_LIBRARY_IMPL(whylight, CPU, m) {
  m.impl("cam_render", TORCH_BOX(&whylight::cam_render::cam_render_cpu));
  m.impl("cam_overlay", TORCH_BOX(&whylight::cam_render::cam_overlay_cpu));
}
