// Which kernels of cam_pool run, on what grids; knows raw pointers, not torch.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "../common/dispatch.h"
#include "cam_pool_channels_last.cuh"
#include "cam_pool_planar.cuh"

namespace whylight::cam_pool {

constexpr int kFewPositions = 2 * kWarp;   // 7 x 7
constexpr int kSomePositions = 7 * kWarp;  // 14 x 14
constexpr int kFusedPositions = 1024;      // beyond these, a block per split has too much to do alone

// One call. `inputs[i]` has the targets [firsts[i], firsts[i + 1]); with `one_each` both are empty and target m is of
// input m.
struct Problem {
  Shape shape;
  bool channels_last;
  Scheme scheme;
  int64_t targets;
  bool one_each;
  std::vector<int32_t> inputs, firsts;
};

// Whether weights are made by a kernel of their own, into a workspace [targets, channels].
inline bool weighs_apart(const Problem& problem) {
  return problem.shape.positions > (problem.channels_last ? kFusedPositions : kSomePositions);
}

inline int splits_of(int64_t channels) {
  return static_cast<int>((channels + kSplit - 1) / kSplit);
}

// The same call with one target per group.
inline Problem one_target_each(Problem problem) {
  if (problem.one_each) return problem;
  std::vector<int32_t> inputs, firsts;
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    for (int32_t m = problem.firsts[i]; m < problem.firsts[i + 1]; ++m) {
      inputs.push_back(problem.inputs[i]);
      firsts.push_back(m);
    }
  }
  firsts.push_back(static_cast<int32_t>(problem.targets));
  problem.inputs = std::move(inputs);
  problem.firsts = std::move(firsts);
  return problem;
}

// Calls f(groups, number of groups) for as many groups at a time as one launch takes.
template <class F>
void for_groups(const Problem& problem, int64_t blocks_per_group, F f) {
  const int64_t grid_limit = ((int64_t{1} << 31) - 1) / blocks_per_group;
  const int64_t count = problem.one_each ? problem.targets : static_cast<int64_t>(problem.inputs.size());
  const int64_t step = problem.one_each ? grid_limit : std::min<int64_t>(grid_limit, kMaxGroups);
  Groups groups{};
  groups.one_each = problem.one_each;
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t size = std::min(step, count - begin);
    groups.base = begin;
    if (!problem.one_each) {
      std::copy_n(problem.inputs.begin() + begin, size, groups.input);
      std::copy_n(problem.firsts.begin() + begin, size + 1, groups.first);
    }
    f(groups, static_cast<unsigned>(size));
  }
}

// Whether a tensor, whose items lie `stride` apart and are walked in runs of `run` numbers, is read by whole vectors.
template <class T>
bool reads_vectors(const T* data, int64_t batch_stride, int64_t stride, int64_t run) {
  return is_aligned(data) && keeps_aligned<T>(batch_stride) && keeps_aligned<T>(stride) && keeps_aligned<T>(run);
}

// Whether the planes of both, where gradients have planes at all, are neighbours in slabs that start at vectors.
template <class T>
bool reads_slabs(const Shape& shape, const T* activations, const T* gradients) {
  const auto in_slabs = [&](const T* data, const Strides& strides) {
    return strides.channel == shape.positions && reads_vectors(data, strides.batch, 0, 0);
  };
  return in_slabs(activations, shape.a) && (shape.g.position == 0 || in_slabs(gradients, shape.g));
}

// Whether the planes themselves start at vectors.
template <class T>
bool reads_planes(const Shape& shape, const T* activations, const T* gradients) {
  const auto in_planes = [&](const T* data, const Strides& strides) {
    return reads_vectors(data, strides.batch, strides.channel, shape.positions);
  };
  return in_planes(activations, shape.a) && (shape.g.position == 0 || in_planes(gradients, shape.g));
}

// Whether the channels at every position do.
template <class T>
bool reads_channels(const Shape& shape, const T* activations, const T* gradients) {
  const auto in_channels = [&](const T* data, const Strides& strides) {
    return strides.channel == 1 && reads_vectors(data, strides.batch, strides.position, shape.channels);
  };
  return in_channels(activations, shape.a) && in_channels(gradients, shape.g);
}

template <class T, Scheme S>
void pool_fused(const Problem& problem, const T* activations, const T* gradients, float* partial, cudaStream_t stream) {
  const Shape& shape = problem.shape;
  const auto run = [&](auto kernel) {
    for_groups(problem, shape.splits, [&](const Groups& groups, unsigned size) {
      launch(kernel, dim3(size * shape.splits), dim3(kThreads), stream, activations, gradients, partial, shape, groups);
    });
  };
  if (problem.channels_last) {
    return run(reads_channels(shape, activations, gradients) ? pool_channels_last<T, S, true>
                                                             : pool_channels_last<T, S, false>);
  }
  constexpr int kFew = kFewPositions / kWarp, kSome = kSomePositions / kWarp;
  const bool staged = reads_slabs(shape, activations, gradients);
  if (shape.positions <= kFewPositions) {
    return run(staged ? pool_planar<T, S, kFew, true> : pool_planar<T, S, kFew, false>);
  }
  return run(staged ? pool_planar<T, S, kSome, true> : pool_planar<T, S, kSome, false>);
}

template <class T, Scheme S>
void pool_apart(const Problem& problem, const T* activations, const T* gradients, float* weights, float* partial,
                cudaStream_t stream) {
  const Shape& shape = problem.shape;
  const auto weigh = [&](auto kernel, int per_group) {
    for_groups(problem, per_group, [&](const Groups& groups, unsigned size) {
      launch(kernel, dim3(size * per_group), dim3(kThreads), stream, activations, gradients, weights, shape, groups);
    });
  };
  const auto combine = [&](auto kernel, int per_tile, int threads) {
    const int64_t blocks = static_cast<int64_t>(shape.splits) * ((shape.positions + per_tile - 1) / per_tile);
    for_groups(problem, blocks, [&](const Groups& groups, unsigned size) {
      launch(kernel, dim3(static_cast<unsigned>(size * blocks)), dim3(threads), stream, activations, gradients, weights,
             partial, shape, groups);
    });
  };
  if (problem.channels_last) {
    const bool aligned = reads_channels(shape, activations, gradients);
    if constexpr (weighs_channels(S)) {
      weigh(aligned ? weigh_channels_last<T, S, true> : weigh_channels_last<T, S, false>, shape.splits);
    }
    combine(aligned ? combine_channels_last<T, S, true> : combine_channels_last<T, S, false>, kTilePositions, kThreads);
  } else {
    const bool aligned = reads_planes(shape, activations, gradients);
    if constexpr (weighs_channels(S)) {
      weigh(aligned ? weigh_planar<T, S, true> : weigh_planar<T, S, false>, shape.channels);
    }
    combine(aligned ? combine_planar<T, S, true> : combine_planar<T, S, false>, kTileThreads * kVector<T>,
            kTileThreads);
  }
}

// Computes maps [targets, positions]. Workspaces: partial [targets, splits, positions], and weights [targets, channels]
// if weighs_apart. Targets, channels and positions are at least 1.
template <class T>
void pool(const Problem& problem, const T* activations, const T* gradients, float* weights, float* partial, float* maps,
          cudaStream_t stream) {
  const bool apart = weighs_apart(problem);
  const Problem single = apart ? one_target_each(problem) : Problem{};
  dispatch<Scheme, Scheme::kGradCam, Scheme::kGradCamPlusPlus, Scheme::kXGradCam, Scheme::kLayerCam, Scheme::kHiResCam>(
      problem.scheme, [&](auto scheme) {
        if (apart) {
          pool_apart<T, scheme()>(single, activations, gradients, weights, partial, stream);
        } else {
          pool_fused<T, scheme()>(problem, activations, gradients, partial, stream);
        }
      });
  const int64_t count = problem.targets * problem.shape.positions;
  const float* sums = partial;
  launch(finish<float>, dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads), stream, sums,
         maps, count, problem.shape.positions, problem.shape.splits);
}

}  // namespace whylight::cam_pool
