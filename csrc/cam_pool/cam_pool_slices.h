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

// `count` neighbours as E: where they lie if that is their type, else as T converted into `scratch`.
template <class E, class T>
WHYLIGHT_INLINE const E* locate(const void* data, ScalarType type, int64_t offset, int64_t count, T* scratch) {
  if constexpr (!std::is_same_v<E, T>) {
    return static_cast<const E*>(data) + offset;
  } else {
    constexpr ScalarType own = sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
    if (type == own) return static_cast<const T*>(data) + offset;
    convert(data, type, offset, count, scratch);
    return scratch;
  }
}

// The sum of each of kBlock planes.
template <class E, class T, int B>
WHYLIGHT_INLINE void sum_planes(const Row<T, B>& row, const E* const* planes, T* sums) {
  typename Row<T, B>::Vector sum[kBlock];
  for (int k = 0; k < kBlock; ++k) sum[k] = row.tail(planes[k]);
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    for (int k = 0; k < kBlock; ++k) sum[k] += row.at(planes[k], p);
  }
  for (int k = 0; k < kBlock; ++k) sums[k] = sum_lanes<T, B>(sum[k]);
}

// The sums of weight_term over each of kBlock planes.
template <Scheme S, bool HasEps, class E, class T, int B>
WHYLIGHT_INLINE void sum_terms(const Row<T, B>& row, const E* const* g, const E* const* a, const T* total, T eps,
                               T* sums) {
  using Vector = typename Row<T, B>::Vector;
  Vector sum[kBlock];
  for (int k = 0; k < kBlock; ++k) {
    // The zeros before the tail add nothing in any scheme.
    sum[k] = weight_term<S, HasEps, Vector>(row.tail(g[k]), row.tail(a[k]), Vector{} + total[k], Vector{} + eps);
  }
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    for (int k = 0; k < kBlock; ++k) {
      sum[k] += weight_term<S, HasEps, Vector>(row.at(g[k], p), row.at(a[k], p), Vector{} + total[k], Vector{} + eps);
    }
  }
  for (int k = 0; k < kBlock; ++k) sums[k] = sum_lanes<T, B>(sum[k]);
}

// Adds kBlock planes to a map, each times its weight.
template <class E, class T, int B>
WHYLIGHT_INLINE void add_weighted(const Row<T, B>& row, const E* const* a, const T* weight, T* map) {
  using Vector = typename Row<T, B>::Vector;
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    Vector sum = row.at(map, p);
    for (int k = 0; k < kBlock; ++k) sum += weight[k] * row.at(a[k], p);
    Row<T, B>::S::store(map + p, sum);
  }
  Vector sum{};
  for (int k = 0; k < kBlock; ++k) sum += weight[k] * row.tail(a[k]);
  row.add_to_tail(map, sum);
}

// Adds kBlock planes to a map, each position times its own weight.
template <Scheme S, class E, class T, int B>
WHYLIGHT_INLINE void add_products(const Row<T, B>& row, const E* const* g, const E* const* a, T* map) {
  using Vector = typename Row<T, B>::Vector;
  for (int64_t p = 0; p < row.body(); p += Row<T, B>::kLanes) {
    Vector sum = row.at(map, p);
    for (int k = 0; k < kBlock; ++k) sum += position_weight<S, Vector>(row.at(g[k], p)) * row.at(a[k], p);
    Row<T, B>::S::store(map + p, sum);
  }
  Vector sum{};
  for (int k = 0; k < kBlock; ++k) sum += position_weight<S, Vector>(row.tail(g[k])) * row.tail(a[k]);
  row.add_to_tail(map, sum);
}

// How far ahead of the planes in use memory is asked for, in bytes. Two streams of odd-sized planes, each walked
// several times, are more than the processor foresees by itself: without, Grad-CAM of 64x2048x7x7 takes 1.4 times as
// long.
constexpr int64_t kAhead = 6 << 10;
constexpr int64_t kCacheLine = 64;

// kBlock planes of one input or target, each a pointer: converted in one go where they are neighbours, and `zeros` for
// those past `count`, which add nothing in any scheme.
template <class E, class T>
WHYLIGHT_INLINE void load_planes(const void* data, ScalarType type, int64_t offset, int64_t stride, int64_t positions,
                                 int64_t count, T* scratch, const T* zeros, const E** planes) {
  const bool neighbours = stride == positions;
  const E* block = neighbours ? locate<E>(data, type, offset, count * positions, scratch) : nullptr;
  if (neighbours && static_cast<const void*>(block) != scratch) {
    const auto from = reinterpret_cast<uintptr_t>(block) + kAhead;  // past the end too, where it does nothing
    for (int64_t i = 0; i < kBlock * positions * static_cast<int64_t>(sizeof(E)); i += kCacheLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(from + i));
    }
  }
  for (int64_t k = 0; k < kBlock; ++k) {
    if (k >= count) {
      planes[k] = reinterpret_cast<const E*>(zeros);
    } else if (neighbours) {
      planes[k] = block + k * positions;
    } else {
      planes[k] = locate<E>(data, type, offset + k * stride, positions, scratch + k * positions);
    }
  }
}

// `count` channels, from c on and at most kBlock, of all targets of a group.
template <Scheme S, class E, class T, int B>
WHYLIGHT_INLINE void pool_block(const Work<T>& work, const Row<T, B>& row, const Group* group, int64_t slice, int64_t c,
                                int64_t count, const T* zeros, T* scratch) {
  const int64_t positions = work.positions;
  const T size = static_cast<T>(positions);
  const E* a[kBlock];
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
    const E* g[kBlock];
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
template <Scheme S, class E, int B, class T>
WHYLIGHT_INLINE void pool_planar(const Work<T>& work, const Group* group, int64_t slice, T* scratch) {
  const int64_t begin = slice * work.channels_per_slice;
  const int64_t end = std::min(begin + work.channels_per_slice, work.channels);
  const Row<T, B> row(work.positions);
  T* zeros = scratch + 2 * kBlock * work.positions;
  std::fill_n(zeros, work.positions, T(0));
  for (int64_t m = group[0].first; m < group[1].first; ++m) std::fill_n(work.sums_of(m, slice), work.positions, T(0));
  for (int64_t c = begin; c < end; c += kBlock) {
    pool_block<S, E>(work, row, group, slice, c, std::min<int64_t>(kBlock, end - c), zeros, scratch);
  }
}

// Some slices of positions whose channels are neighbours: reductions and updates run along the channels, and rows are
// read as long as the slices together are. What each slice sums to does not depend on its company.
template <Scheme S, class E, int B, class T>
class Walk {
 public:
  using Vector = typename Row<T, B>::Vector;

  WHYLIGHT_INLINE Walk(const Work<T>& work, const Group* group, int64_t slice, int64_t slices, T* scratch)
      : work_(work),
        group_(group),
        slice_(slice),
        slices_(slices),
        first_(slice * work.channels_per_slice),
        count_(std::min(slices * work.channels_per_slice, work.channels - first_)),
        row_(count_),
        slice_row_(work.channels_per_slice),
        last_row_(count_ - (slices - 1) * work.channels_per_slice),
        total_(scratch),
        weight_(scratch + count_),
        part_(scratch + 2 * count_),
        scratch_(scratch + 3 * count_) {}

  WHYLIGHT_INLINE void pool() const {
    constexpr auto only = [](Vector, Vector a, Vector) WHYLIGHT_INLINE_LAMBDA { return a; };
    if (needs_total(S)) sum_positions<true, false>(group_->first, total_, only);
    const T positions = static_cast<T>(work_.positions);
    for (int64_t m = group_[0].first; m < group_[1].first; ++m) {
      if (work_.g.order == Order::kConstant) {
        const int64_t offset = m * work_.g.batch_stride + first_ * work_.g.channel_stride;
        for (int64_t c = 0; c < count_; ++c) {
          const T g = load_one<T>(work_.gradients, work_.gradient_type, offset + c * work_.g.channel_stride);
          weight_[c] = constant_weight<S>(g, needs_total(S) ? total_[c] : T(0), positions, work_.eps);
        }
        combine<true>(m);
      } else if constexpr (weighs_channels(S)) {
        if (work_.eps != T(0)) {
          sum_terms_of<true>(m);
        } else {
          sum_terms_of<false>(m);
        }
#pragma omp simd
        for (int64_t c = 0; c < count_; ++c) {
          weight_[c] = channel_weight<S>(weight_[c], needs_total(S) ? total_[c] : T(0), positions, work_.eps);
        }
        combine<true>(m);
      } else {
        combine<false>(m);
      }
    }
  }

 private:
  // The row of position p, in a place of its own for each r < kRowsTogether if it is converted.
  WHYLIGHT_INLINE const E* activations(int64_t p, int r) const {
    const int64_t offset = group_->input * work_.a.batch_stride + first_ * work_.a.channel_stride;
    return locate<E>(work_.activations, work_.activation_type, offset + p * work_.a.position_stride, count_,
                     scratch_ + r * count_);
  }

  WHYLIGHT_INLINE const E* gradients(int64_t m, int64_t p, int r) const {
    const int64_t offset = m * work_.g.batch_stride + first_ * work_.g.channel_stride;
    return locate<E>(work_.gradients, work_.gradient_type, offset + p * work_.g.position_stride, count_,
                     scratch_ + (kRowsTogether + r) * count_);
  }

  template <bool kHasEps>
  WHYLIGHT_INLINE void sum_terms_of(int64_t m) const {
    const Vector eps = Vector{} + work_.eps;
    sum_positions<needs_total(S), true>(m, weight_, [&](Vector g, Vector a, Vector total) WHYLIGHT_INLINE_LAMBDA {
      return weight_term<S, kHasEps, Vector>(g, a, total, eps);
    });
  }

  // The sums over all positions of term(gradients, activations, total) of every channel; those it does not look at are
  // zeros.
  template <bool kActivations, bool kGradients, class Term>
  WHYLIGHT_INLINE void sum_positions(int64_t m, T* sums, Term term) const {
    const bool one_run = work_.positions <= kRun;
    std::fill_n(sums, count_, T(0));
    for (int64_t run = 0; run < work_.positions; run += kRun) {
      const int64_t end = std::min(run + kRun, work_.positions);
      T* to = one_run ? sums : part_;
      if (!one_run) std::fill_n(part_, count_, T(0));
      int64_t p = run;
      for (; p + kRowsTogether <= end; p += kRowsTogether)
        add_rows<kRowsTogether, kActivations, kGradients>(m, p, to, term);
      for (; p < end; ++p) add_rows<1, kActivations, kGradients>(m, p, to, term);
      if (one_run) continue;
#pragma omp simd
      for (int64_t c = 0; c < count_; ++c) sums[c] += part_[c];
    }
  }

  template <int kCount, bool kActivations, bool kGradients, class Term>
  WHYLIGHT_INLINE void add_rows(int64_t m, int64_t p, T* sums, Term term) const {
    const E *a[kCount], *g[kCount];
    for (int r = 0; r < kCount; ++r) {
      a[r] = kActivations ? activations(p + r, r) : nullptr;
      g[r] = kGradients ? gradients(m, p + r, r) : nullptr;
    }
    const auto add = [&](Vector sum, auto get) WHYLIGHT_INLINE_LAMBDA {
      const Vector total = kActivations && kGradients ? get(static_cast<const T*>(total_)) : Vector{};
      for (int r = 0; r < kCount; ++r) {
        Vector of_g{}, of_a{};
        if constexpr (kGradients) of_g = get(g[r]);
        if constexpr (kActivations) of_a = get(a[r]);
        sum += term(of_g, of_a, total);
      }
      return sum;
    };
    for (int64_t c = 0; c < row_.body(); c += Row<T, B>::kLanes) {
      const auto get = [&](const auto* row) WHYLIGHT_INLINE_LAMBDA { return Row<T, B>::at(row, c); };
      Row<T, B>::S::store(sums + c, add(Row<T, B>::at(sums, c), get));
    }
    if (row_.body() == count_) return;
    const auto get = [&](const auto* row) WHYLIGHT_INLINE_LAMBDA { return row_.tail(row); };
    row_.put_tail(sums, add(row_.tail(sums), get));
  }

  // The weighted sum of every slice at every position, by weight_ or by each position's own gradients.
  template <bool kByChannel>
  WHYLIGHT_INLINE void combine(int64_t m) const {
    for (int64_t p = 0; p < work_.positions; ++p) {
      const E* a = activations(p, 0);
      const E* g = kByChannel ? nullptr : gradients(m, p, 0);
      for (int64_t s = 0; s < slices_; ++s) {
        const int64_t first = s * work_.channels_per_slice;
        const Row<T, B>& row = s + 1 < slices_ ? slice_row_ : last_row_;
        const auto product = [&](auto get) WHYLIGHT_INLINE_LAMBDA {
          if constexpr (kByChannel) {
            return get(static_cast<const T*>(weight_ + first)) * get(a + first);
          } else {
            return position_weight<S, Vector>(get(g + first)) * get(a + first);
          }
        };
        work_.sums_of(m, slice_ + s)[p] = sum_row(row, product);
      }
    }
  }

  template <class Product>
  static WHYLIGHT_INLINE T sum_row(const Row<T, B>& row, Product product) {
    constexpr int kSums = 4;  // as many additions are on their way at a time
    constexpr int64_t kLanes = Row<T, B>::kLanes;
    Vector sum[kSums] = {};
    const auto at = [&](int64_t c) WHYLIGHT_INLINE_LAMBDA {
      return product([&](const auto* from) WHYLIGHT_INLINE_LAMBDA { return Row<T, B>::at(from, c); });
    };
    int64_t c = 0;
    for (; c + kSums * kLanes <= row.body(); c += kSums * kLanes) {
      for (int k = 0; k < kSums; ++k) sum[k] += at(c + k * kLanes);
    }
    for (; c < row.body(); c += kLanes) sum[0] += at(c);
    sum[1] += product([&](const auto* from) WHYLIGHT_INLINE_LAMBDA { return row.tail(from); });
    return sum_lanes<T, B>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }

  const Work<T>& work_;
  const Group* group_;
  int64_t slice_, slices_;
  int64_t first_, count_;  // channels
  Row<T, B> row_, slice_row_, last_row_;
  T *total_, *weight_, *part_, *scratch_;
};

template <Scheme S, class E, int B, class T>
void pool_slices(const Work<T>& work, int64_t begin, int64_t end, T* scratch) {
  if (work.a.order == Order::kPlanar) {
    for (int64_t job = begin; job < end; ++job) {
      pool_planar<S, E, B>(work, work.groups + job / work.slices, job % work.slices, scratch);
    }
    return;
  }
  for (int64_t job = begin; job < end;) {
    const int64_t slice = job % work.slices;
    const int64_t slices = std::min({slices_per_walk(work), work.slices - slice, end - job});
    Walk<S, E, B, T>(work, work.groups + job / work.slices, slice, slices, scratch).pool();
    job += slices;
  }
}

// By the type that both tensors are read as: their own if it is one, else T, converted beforehand.
template <Scheme S, int B, class T>
void pool_scheme(const Work<T>& work, int64_t begin, int64_t end, T* scratch) {
  if constexpr (std::is_same_v<T, float>) {
    if (work.g.order == Order::kConstant || work.gradient_type == work.activation_type) {
      if (work.activation_type == ScalarType::Half) return pool_slices<S, Half, B>(work, begin, end, scratch);
      if (work.activation_type == ScalarType::BFloat16) return pool_slices<S, BFloat16, B>(work, begin, end, scratch);
    }
  }
  pool_slices<S, T, B>(work, begin, end, scratch);
}

template <int B, class T>
void pool_any(const Work<T>& work, int64_t begin, int64_t end, T* scratch) {
  switch (work.scheme) {
    case Scheme::kGradCam:
      return pool_scheme<Scheme::kGradCam, B>(work, begin, end, scratch);
    case Scheme::kGradCamPlusPlus:
      return pool_scheme<Scheme::kGradCamPlusPlus, B>(work, begin, end, scratch);
    case Scheme::kXGradCam:
      return pool_scheme<Scheme::kXGradCam, B>(work, begin, end, scratch);
    case Scheme::kLayerCam:
      return pool_scheme<Scheme::kLayerCam, B>(work, begin, end, scratch);
    case Scheme::kHiResCam:
      return pool_scheme<Scheme::kHiResCam, B>(work, begin, end, scratch);
  }
}

}  // namespace
}  // namespace whylight::cam_pool
