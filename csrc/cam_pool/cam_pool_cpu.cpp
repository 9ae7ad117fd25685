// cam_pool on the CPU: slices of channels in parallel, then their sums in a fixed order.
//
// A slice is a fixed number of channels of one input, chosen by the shape of a map alone, so that a row's bits depend
// on neither the batch nor the number of threads. Within a slice the activations are read once for all targets of the
// input.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "../common/vectorise.h"
#include "cam_pool_args.h"

namespace whylight::cam_pool {
namespace {

constexpr int64_t kBlock = 4;                  // channels that are added to a map in one pass over it
constexpr int64_t kRun = 64;                   // positions that are summed before their sum is: rounding stays small
constexpr int64_t kElementsPerTask = 1 << 16;  // below this, handing work to a thread costs more than it saves

// Everything that a slice needs to know, T being the type that is computed in.
template <class T>
struct Work {
  const void* activations;
  const void* gradients;
  ScalarType activation_type, gradient_type;
  Planes a, g;
  int64_t channels, positions, channels_per_slice, slices;
  Scheme scheme;
  T eps;
  const Group* groups;
  T* sums;  // [targets, slices, positions]

  WHYLIGHT_INLINE T* sums_of(int64_t target, int64_t slice) const {
    return sums + (target * slices + slice) * positions;
  }
};

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

// `count` neighbours as T: where they lie if that is their type, else converted into `scratch`.
template <class T>
WHYLIGHT_INLINE const T* load(const void* data, ScalarType type, int64_t offset, int64_t count, T* scratch) {
  constexpr ScalarType own = sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
  if (type == own) return static_cast<const T*>(data) + offset;
  switch (type) {
    case ScalarType::Float: {
      const auto* source = static_cast<const float*>(data) + offset;
      for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<T>(source[i]);
      break;
    }
    case ScalarType::Half: {
      const auto* source = static_cast<const uint16_t*>(data) + offset;
      for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<T>(half_to_float(source[i]));
      break;
    }
    default: {
      const auto* source = static_cast<const uint16_t*>(data) + offset;
      for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<T>(bfloat16_to_float(source[i]));
      break;
    }
  }
  return scratch;
}

template <class T>
WHYLIGHT_INLINE T sum_of(const T* values, int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

template <Scheme S, bool HasEps, class T>
WHYLIGHT_INLINE T sum_of_terms(const T* g, const T* a, T total, T eps, int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += weight_term<S, HasEps>(g[i], a[i], total, eps);
  return sum;
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

// Planes c, c + 1, ... of one input or target as T, each a pointer: converted in one go where they are neighbours.
template <class T>
WHYLIGHT_INLINE void load_planes(const void* data, ScalarType type, int64_t offset, int64_t stride, int64_t positions,
                                 int64_t count, T* scratch, const T** planes) {
  if (stride == positions) {
    const T* block = load(data, type, offset, count * positions, scratch);
    for (int64_t k = 0; k < count; ++k) planes[k] = block + k * positions;
  } else {
    for (int64_t k = 0; k < count; ++k) {
      planes[k] = load(data, type, offset + k * stride, positions, scratch + k * positions);
    }
  }
}

// Channels whose positions are neighbours: reductions and updates run along space.
template <Scheme S, class T>
WHYLIGHT_INLINE void pool_planar(const Work<T>& work, const Group* group, int64_t slice, T* scratch) {
  const int64_t positions = work.positions, first = group[0].first, last = group[1].first;
  const int64_t begin = slice * work.channels_per_slice;
  const int64_t end = std::min(begin + work.channels_per_slice, work.channels);
  const bool constant = work.g.order == Order::kConstant;
  T* gradient_scratch = scratch + kBlock * positions;
  for (int64_t m = first; m < last; ++m) std::fill_n(work.sums_of(m, slice), positions, T(0));
  for (int64_t c = begin; c < end; c += kBlock) {
    const int64_t count = std::min(kBlock, end - c);
    const T* a[kBlock] = {};
    load_planes(work.activations, work.activation_type, group->input * work.a.batch_stride + c * work.a.channel_stride,
                work.a.channel_stride, positions, count, scratch, a);
    T total[kBlock] = {};
    if (needs_total(S)) {
      for (int64_t k = 0; k < count; ++k) total[k] = sum_of(a[k], positions);
    }
    for (int64_t m = first; m < last; ++m) {
      T* sums = work.sums_of(m, slice);
      T weight[kBlock] = {};
      const int64_t offset = m * work.g.batch_stride + c * work.g.channel_stride;
      const T* g[kBlock] = {};
      if (constant) {
        for (int64_t k = 0; k < count; ++k) {
          const T value = load_one<T>(work.gradients, work.gradient_type, offset + k * work.g.channel_stride);
          weight[k] = constant_weight<S>(value, total[k], static_cast<T>(positions), work.eps);
        }
      } else {
        load_planes(work.gradients, work.gradient_type, offset, work.g.channel_stride, positions, count,
                    gradient_scratch, g);
        for (int64_t k = 0; k < count; ++k) {
          if constexpr (weighs_channels(S)) {
            T sum;
            if (S == Scheme::kGradCam) {
              sum = sum_of(g[k], positions);
            } else if (work.eps != T(0)) {
              sum = sum_of_terms<S, true>(g[k], a[k], total[k], work.eps, positions);
            } else {
              sum = sum_of_terms<S, false>(g[k], a[k], total[k], work.eps, positions);
            }
            weight[k] = channel_weight<S>(sum, total[k], static_cast<T>(positions), work.eps);
          } else {
#pragma omp simd
            for (int64_t p = 0; p < positions; ++p) sums[p] += position_weight<S>(g[k][p]) * a[k][p];
          }
        }
      }
      if (!weighs_channels(S) && !constant) continue;
      if (count == kBlock) {
#pragma omp simd
        for (int64_t p = 0; p < positions; ++p) {
          sums[p] += weight[0] * a[0][p] + weight[1] * a[1][p] + weight[2] * a[2][p] + weight[3] * a[3][p];
        }
      } else {
        for (int64_t k = 0; k < count; ++k) {
#pragma omp simd
          for (int64_t p = 0; p < positions; ++p) sums[p] += weight[k] * a[k][p];
        }
      }
    }
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

template <Scheme S, class T>
WHYLIGHT_INLINE void pool_slices(const Work<T>& work, int64_t begin, int64_t end, T* scratch) {
  for (int64_t job = begin; job < end; ++job) {
    const Group* group = work.groups + job / work.slices;
    if (work.a.order == Order::kPlanar) {
      pool_planar<S>(work, group, job % work.slices, scratch);
    } else {
      pool_channels_last<S>(work, group, job % work.slices, scratch);
    }
  }
}

template <class T>
WHYLIGHT_INLINE void pool_any(const Work<T>& work, int64_t begin, int64_t end, T* scratch) {
  switch (work.scheme) {
    case Scheme::kGradCam:
      return pool_slices<Scheme::kGradCam>(work, begin, end, scratch);
    case Scheme::kGradCamPlusPlus:
      return pool_slices<Scheme::kGradCamPlusPlus>(work, begin, end, scratch);
    case Scheme::kXGradCam:
      return pool_slices<Scheme::kXGradCam>(work, begin, end, scratch);
    case Scheme::kLayerCam:
      return pool_slices<Scheme::kLayerCam>(work, begin, end, scratch);
    case Scheme::kHiResCam:
      return pool_slices<Scheme::kHiResCam>(work, begin, end, scratch);
  }
}

WHYLIGHT_CLONES void pool(const Work<float>& work, int64_t begin, int64_t end, float* scratch) {
  pool_any(work, begin, end, scratch);
}

WHYLIGHT_CLONES void pool(const Work<double>& work, int64_t begin, int64_t end, double* scratch) {
  pool_any(work, begin, end, scratch);
}

// Rows of channels are read better in long runs; planes are long runs already.
int64_t channels_per_slice(const Arguments& arguments) {
  const int64_t most = arguments.activation_planes.order == Order::kPlanar ? 128 : 512;
  return std::clamp<int64_t>(kElementsPerTask / arguments.positions / kBlock * kBlock, 16, most);
}

template <class T>
Tensor run(const Arguments& arguments, const std::vector<Group>& groups, Scheme scheme, double eps) {
  constexpr ScalarType type = sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
  Tensor result = torch::stable::new_empty(arguments.activations, arguments.output_shape, type);
  const int64_t positions = arguments.positions, groups_count = static_cast<int64_t>(groups.size()) - 1;
  if (arguments.targets == 0 || positions == 0) return result;
  T* output = result.mutable_data_ptr<T>();
  if (arguments.channels == 0) {
    std::fill_n(output, arguments.targets * positions, T(0));
    return result;
  }
  Work<T> work{arguments.activations.const_data_ptr(),
               arguments.gradients.const_data_ptr(),
               arguments.activations.scalar_type(),
               arguments.gradients.scalar_type(),
               arguments.activation_planes,
               arguments.gradient_planes,
               arguments.channels,
               positions,
               channels_per_slice(arguments),
               0,
               scheme,
               static_cast<T>(eps),
               groups.data(),
               output};
  work.slices = (work.channels + work.channels_per_slice - 1) / work.channels_per_slice;
  std::unique_ptr<T[]> sums;
  if (work.slices > 1) {
    sums.reset(new T[arguments.targets * work.slices * positions]);
    work.sums = sums.get();
  }
  const int64_t scratch_size = std::max(2 * kBlock * positions, 5 * work.channels_per_slice);
  const int64_t targets_per_group = arguments.targets / groups_count;
  const int64_t elements = work.channels_per_slice * positions * (1 + targets_per_group);
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / elements);
  torch::stable::parallel_for(0, groups_count * work.slices, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<T[]> scratch(new T[scratch_size]);
    pool(work, begin, end, scratch.get());
  });
  if (work.slices > 1) {
    const int64_t grain_of_fold = std::max<int64_t>(1, kElementsPerTask / (work.slices * positions));
    torch::stable::parallel_for(0, arguments.targets, grain_of_fold, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        T* map = output + m * positions;
        std::copy_n(work.sums_of(m, 0), positions, map);
        for (int64_t slice = 1; slice < work.slices; ++slice) {
          const T* part = work.sums_of(m, slice);
          for (int64_t p = 0; p < positions; ++p) map[p] += part[p];
        }
      }
    });
  }
  return result;
}

Tensor cam_pool_cpu(const Tensor& activations, const Tensor& gradients, int64_t scheme,
                    std::optional<std::vector<int64_t>> rows, double eps) {
  Arguments arguments = check_arguments(activations, gradients, scheme);
  const std::vector<Group> groups = group_targets(arguments, rows);
  lay_out(arguments);
  const bool wide = activations.scalar_type() == ScalarType::Double || gradients.scalar_type() == ScalarType::Double;
  return wide ? run<double>(arguments, groups, static_cast<Scheme>(scheme), eps)
              : run<float>(arguments, groups, static_cast<Scheme>(scheme), eps);
}

}  // namespace
}  // namespace whylight::cam_pool

STABLE_TORCH_LIBRARY_IMPL(whylight, CPU, m) {
  m.impl("cam_pool", TORCH_BOX(&whylight::cam_pool::cam_pool_cpu));
}
