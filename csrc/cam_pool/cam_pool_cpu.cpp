// cam_pool on the CPU: slices of channels in parallel, then their sums in a fixed order.
//
// A slice is a fixed number of channels of one input, chosen by the shape of a map alone, so that a row's bits depend
// on neither the batch nor the number of threads. Within a slice the activations are read once for all targets of the
// input.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "../common/registers.h"
#include "cam_pool_args.h"
#include "cam_pool_slices.h"

namespace whylight::cam_pool {
namespace {

constexpr int64_t kElementsPerTask = 1 << 16;  // below this, handing work to a thread costs more than it saves

template <class T>
Kernel<T> kernel() {
#if defined(WHYLIGHT_X86_TARGETS)
  if (register_bytes() == 64) return pool_avx512(T());
  if (register_bytes() == 32) return pool_avx2(T());
#endif
  return pool_any<16, T>;
}

// Slices start at whole vectors of a row, so that which channels are in a vector does not depend on where a walk
// starts.
constexpr int64_t kSliceStep = 16;

// Rows of channels are read better in long runs; planes are long runs already.
int64_t channels_per_slice(const Arguments& arguments) {
  const int64_t most = arguments.activation_planes.order == Order::kPlanar ? 128 : 512;
  return std::clamp<int64_t>(kElementsPerTask / arguments.positions / kSliceStep * kSliceStep, kSliceStep, most);
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
  const Kernel<T> pool_range = kernel<T>();
  const int64_t scratch_elements = scratch_size(work);
  const int64_t targets_per_group = arguments.targets / groups_count;
  const int64_t elements = work.channels_per_slice * positions * (1 + targets_per_group);
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / elements);
  torch::stable::parallel_for(0, groups_count * work.slices, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<T[]> scratch(new T[scratch_elements]);
    pool_range(work, begin, end, scratch.get());
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
