// The CPU kernels of cam_pool, compiled once per instruction set: a file includes this under its target, and before
// that whatever other files share, of which the linker keeps one copy for all machines.
#include "../common/vectorise.h"
#include "cam_pool_math.h"
#include "cam_pool_work.h"

namespace whylight::cam_pool {
namespace {

template <class T>
WHYLIGHT_INLINE T load_one(const void* data, ScalarType type, int64_t offset) {
  switch (type) {
    case ScalarType::Float:
      return static_cast<T>(static_cast<const float*>(data)[offset]);
    case ScalarType::Double:
      return static_cast<T>(static_cast<const double*>(data)[offset]);
    case ScalarType::Half:
      return static_cast<T>(half_to_float(static_cast<const uint16_t*>(data)[offset]));
    default:
      return static_cast<T>(bfloat16_to_float(static_cast<const uint16_t*>(data)[offset]));
  }
}

// A function of its own, not to have it in every kernel.
template <class T>
__attribute__((noinline)) void convert(const void* data, ScalarType type, int64_t offset, int64_t count, T* converted) {
  if (type == ScalarType::Float) {
    const auto* source = static_cast<const float*>(data) + offset;
    for (int64_t i = 0; i < count; ++i) converted[i] = static_cast<T>(source[i]);
  } else if (type == ScalarType::Half) {
    const auto* source = static_cast<const uint16_t*>(data) + offset;
    for (int64_t i = 0; i < count; ++i) converted[i] = static_cast<T>(half_to_float(source[i]));
  } else {
    const auto* source = static_cast<const uint16_t*>(data) + offset;
    for (int64_t i = 0; i < count; ++i) converted[i] = static_cast<T>(bfloat16_to_float(source[i]));
  }
}

// `count` neighbours as T: where they lie if that is their type, else converted into `scratch`.
template <class T>
WHYLIGHT_INLINE const T* load(const void* data, ScalarType type, int64_t offset, int64_t count, T* scratch) {
  constexpr ScalarType own = sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
  if (type == own) return static_cast<const T*>(data) + offset;
  convert(data, type, offset, count, scratch);
  return scratch;
}

// The sum of each of kBlock planes.
template <class T, int B>
WHYLIGHT_INLINE void sum_planes(const Row<T, B>& row, const T* const* planes, T* sums) {
  typename Row<T, B>::Vector sum[kBlock];
  for (int k = 0; k < kBlock; ++k) sum[k] = row.tail(planes[k]);
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    for (int k = 0; k < kBlock; ++k) sum[k] += Row<T, B>::S::load(planes[k] + p);
  }
  for (int k = 0; k < kBlock; ++k) sums[k] = sum_lanes<T, B>(sum[k]);
}

// The sums of weight_term over each of kBlock planes.
template <Scheme S, bool HasEps, class T, int B>
WHYLIGHT_INLINE void sum_terms(const Row<T, B>& row, const T* const* g, const T* const* a, const T* total, T eps,
                               T* sums) {
  using Vector = typename Row<T, B>::Vector;
  Vector sum[kBlock];
  for (int k = 0; k < kBlock; ++k) {
    // The zeros before the tail add nothing in any scheme.
    sum[k] = weight_term<S, HasEps, Vector>(row.tail(g[k]), row.tail(a[k]), Vector{} + total[k], Vector{} + eps);
  }
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    for (int k = 0; k < kBlock; ++k) {
      sum[k] += weight_term<S, HasEps, Vector>(Row<T, B>::S::load(g[k] + p), Row<T, B>::S::load(a[k] + p),
                                               Vector{} + total[k], Vector{} + eps);
    }
  }
  for (int k = 0; k < kBlock; ++k) sums[k] = sum_lanes<T, B>(sum[k]);
}

// Adds kBlock planes to a map, each times its weight.
template <class T, int B>
WHYLIGHT_INLINE void add_weighted(const Row<T, B>& row, const T* const* a, const T* weight, T* map) {
  using Vector = typename Row<T, B>::Vector;
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    Vector sum = Row<T, B>::S::load(map + p);
    for (int k = 0; k < kBlock; ++k) sum += weight[k] * Row<T, B>::S::load(a[k] + p);
    Row<T, B>::S::store(map + p, sum);
  }
  Vector sum{};
  for (int k = 0; k < kBlock; ++k) sum += weight[k] * row.tail(a[k]);
  row.add_to_tail(map, sum);
}

// Adds kBlock planes to a map, each position times its own weight.
template <Scheme S, class T, int B>
WHYLIGHT_INLINE void add_products(const Row<T, B>& row, const T* const* g, const T* const* a, T* map) {
  using Vector = typename Row<T, B>::Vector;
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    Vector sum = Row<T, B>::S::load(map + p);
    for (int k = 0; k < kBlock; ++k)
      sum += position_weight<S, Vector>(Row<T, B>::S::load(g[k] + p)) * Row<T, B>::S::load(a[k] + p);
    Row<T, B>::S::store(map + p, sum);
  }
  Vector sum{};
  for (int k = 0; k < kBlock; ++k) sum += position_weight<S, Vector>(row.tail(g[k])) * row.tail(a[k]);
  row.add_to_tail(map, sum);
}

template <Scheme S, bool HasEps, class T>
WHYLIGHT_INLINE void add_terms(const T* g, const T* a, const T* total, T eps, int64_t count, T* sums) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sums[i] += weight_term<S, HasEps>(g[i], a[i], total[i], eps);
}

template <class T>
WHYLIGHT_INLINE void add(const T* values, int64_t count, T* sums) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sums[i] += values[i];
}

// kBlock planes of one input or target as T, each a pointer: converted in one go where they are neighbours, and `zeros`
// for those past `count`, which add nothing in any scheme.
template <class T>
WHYLIGHT_INLINE void load_planes(const void* data, ScalarType type, int64_t offset, int64_t stride, int64_t positions,
                                 int64_t count, T* scratch, const T* zeros, const T** planes) {
  const bool neighbours = stride == positions;
  const T* block = neighbours ? load(data, type, offset, count * positions, scratch) : nullptr;
  for (int64_t k = 0; k < kBlock; ++k) {
    if (k >= count) {
      planes[k] = zeros;
    } else if (neighbours) {
      planes[k] = block + k * positions;
    } else {
      planes[k] = load(data, type, offset + k * stride, positions, scratch + k * positions);
    }
  }
}

// `count` channels, from c on and at most kBlock, of all targets of a group.
template <Scheme S, class T, int B>
WHYLIGHT_INLINE void pool_block(const Work<T>& work, const Row<T, B>& row, const Group* group, int64_t slice, int64_t c,
                                int64_t count, const T* zeros, T* scratch) {
  const int64_t positions = work.positions;
  const T size = static_cast<T>(positions);
  const T* a[kBlock];
  load_planes(work.activations, work.activation_type, group->input * work.a.batch_stride + c * work.a.channel_stride,
              work.a.channel_stride, positions, count, scratch, zeros, a);
  T total[kBlock] = {};
  if (needs_total(S)) sum_planes(row, a, total);
  for (int64_t m = group[0].first; m < group[1].first; ++m) {
    T* map = work.sums_of(m, slice);
    T weight[kBlock] = {};
    const int64_t offset = m * work.g.batch_stride + c * work.g.channel_stride;
    if (work.g.order == Order::kConstant) {
      for (int64_t k = 0; k < count; ++k) {
        const T g = load_one<T>(work.gradients, work.gradient_type, offset + k * work.g.channel_stride);
        weight[k] = constant_weight<S>(g, total[k], size, work.eps);
      }
      add_weighted(row, a, weight, map);
      continue;
    }
    const T* g[kBlock];
    load_planes(work.gradients, work.gradient_type, offset, work.g.channel_stride, positions, count,
                scratch + kBlock * positions, zeros, g);
    if constexpr (weighs_channels(S)) {
      if (S == Scheme::kGradCam) {
        sum_planes(row, g, weight);
      } else if (work.eps != T(0)) {
        sum_terms<S, true>(row, g, a, total, work.eps, weight);
      } else {
        sum_terms<S, false>(row, g, a, total, work.eps, weight);
      }
      for (int k = 0; k < kBlock; ++k) weight[k] = channel_weight<S>(weight[k], total[k], size, work.eps);
      add_weighted(row, a, weight, map);
    } else {
      add_products<S>(row, g, a, map);
    }
  }
}

// Channels whose positions are neighbours: reductions and updates run along space.
template <Scheme S, int B, class T>
WHYLIGHT_INLINE void pool_planar(const Work<T>& work, const Group* group, int64_t slice, T* scratch) {
  const int64_t begin = slice * work.channels_per_slice;
  const int64_t end = std::min(begin + work.channels_per_slice, work.channels);
  const Row<T, B> row(work.positions);
  T* zeros = scratch + 2 * kBlock * work.positions;
  std::fill_n(zeros, work.positions, T(0));
  for (int64_t m = group[0].first; m < group[1].first; ++m) std::fill_n(work.sums_of(m, slice), work.positions, T(0));
  for (int64_t c = begin; c < end; c += kBlock) {
    pool_block<S>(work, row, group, slice, c, std::min<int64_t>(kBlock, end - c), zeros, scratch);
  }
}

// Positions whose channels are neighbours: reductions and updates run along the channels.
template <Scheme S, class T>
WHYLIGHT_INLINE void pool_channels_last(const Work<T>& work, const Group* group, int64_t slice, T* scratch) {
  const int64_t positions = work.positions;
  const int64_t begin = slice * work.channels_per_slice;
  const int64_t count = std::min(work.channels_per_slice, work.channels - begin);
  const bool constant = work.g.order == Order::kConstant;
  T* total = scratch;
  T* weight = total + count;
  T* part = weight + count;
  T* a_scratch = part + count;
  T* g_scratch = a_scratch + count;
  const int64_t a_offset = group->input * work.a.batch_stride + begin * work.a.channel_stride;
  std::fill_n(total, count, T(0));
  if (needs_total(S)) {
    for (int64_t run = 0; run < positions; run += kRun) {
      std::fill_n(part, count, T(0));
      for (int64_t p = run; p < std::min(run + kRun, positions); ++p) {
        const int64_t offset = a_offset + p * work.a.position_stride;
        const T* a = load(work.activations, work.activation_type, offset, count, a_scratch);
        add(a, count, part);
      }
      add(part, count, total);
    }
  }
  for (int64_t m = group[0].first; m < group[1].first; ++m) {
    T* sums = work.sums_of(m, slice);
    const int64_t g_offset = m * work.g.batch_stride + begin * work.g.channel_stride;
    if (constant) {
      for (int64_t c = 0; c < count; ++c) {
        const T g = load_one<T>(work.gradients, work.gradient_type, g_offset + c * work.g.channel_stride);
        weight[c] = constant_weight<S>(g, total[c], static_cast<T>(positions), work.eps);
      }
    } else if constexpr (weighs_channels(S)) {
      std::fill_n(weight, count, T(0));
      for (int64_t run = 0; run < positions; run += kRun) {
        std::fill_n(part, count, T(0));
        for (int64_t p = run; p < std::min(run + kRun, positions); ++p) {
          const int64_t offset = g_offset + p * work.g.position_stride;
          const T* g = load(work.gradients, work.gradient_type, offset, count, g_scratch);
          const T* a = g;
          if (needs_total(S)) {
            a = load(work.activations, work.activation_type, a_offset + p * work.a.position_stride, count, a_scratch);
          }
          if (work.eps != T(0)) {
            add_terms<S, true>(g, a, total, work.eps, count, part);
          } else {
            add_terms<S, false>(g, a, total, work.eps, count, part);
          }
        }
        add(part, count, weight);
      }
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) {
        weight[c] = channel_weight<S>(weight[c], total[c], static_cast<T>(positions), work.eps);
      }
    }
    for (int64_t p = 0; p < positions; ++p) {
      const T* a =
          load(work.activations, work.activation_type, a_offset + p * work.a.position_stride, count, a_scratch);
      T sum = 0;
      if (weighs_channels(S) || constant) {
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < count; ++c) sum += weight[c] * a[c];
      } else if constexpr (!weighs_channels(S)) {
        const T* g = load(work.gradients, work.gradient_type, g_offset + p * work.g.position_stride, count, g_scratch);
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < count; ++c) sum += position_weight<S>(g[c]) * a[c];
      }
      sums[p] = sum;
    }
  }
}

template <Scheme S, int B, class T>
WHYLIGHT_INLINE void pool_slices(const Work<T>& work, int64_t begin, int64_t end, T* scratch) {
  for (int64_t job = begin; job < end; ++job) {
    const Group* group = work.groups + job / work.slices;
    if (work.a.order == Order::kPlanar) {
      pool_planar<S, B>(work, group, job % work.slices, scratch);
    } else {
      pool_channels_last<S>(work, group, job % work.slices, scratch);
    }
  }
}

template <int B, class T>
void pool_any(const Work<T>& work, int64_t begin, int64_t end, T* scratch) {
  switch (work.scheme) {
    case Scheme::kGradCam:
      return pool_slices<Scheme::kGradCam, B>(work, begin, end, scratch);
    case Scheme::kGradCamPlusPlus:
      return pool_slices<Scheme::kGradCamPlusPlus, B>(work, begin, end, scratch);
    case Scheme::kXGradCam:
      return pool_slices<Scheme::kXGradCam, B>(work, begin, end, scratch);
    case Scheme::kLayerCam:
      return pool_slices<Scheme::kLayerCam, B>(work, begin, end, scratch);
    case Scheme::kHiResCam:
      return pool_slices<Scheme::kHiResCam, B>(work, begin, end, scratch);
  }
}

}  // namespace
}  // namespace whylight::cam_pool
