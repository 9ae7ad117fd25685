// Which kernels of cam_pool run, on what grids; knows raw pointers, not torch.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "../common/dispatch.h"
#include "cam_pool_kernels.cuh"

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

template <class T, Scheme S>
void pool_fused(const Problem& problem, const T* activations, const T* gradients, float* partial, cudaStream_t stream) {
  const Shape& shape = problem.shape;
  const bool many = !problem.one_each && problem.targets > static_cast<int64_t>(problem.inputs.size());
  for_groups(problem, shape.splits, [&](const Groups& groups, unsigned size) {
    const dim3 grid(size * shape.splits), block(kThreads);
    if (problem.channels_last) {
      launch(pool_channels_last<T, S>, grid, block, stream, activations, gradients, partial, shape, groups);
    } else if (shape.positions <= kFewPositions) {
      launch(many ? pool_planar<T, S, kFewPositions / kWarp, 4> : pool_planar<T, S, kFewPositions / kWarp, 1>, grid,
             block, stream, activations, gradients, partial, shape, groups);
    } else {
      launch(many ? pool_planar<T, S, kSomePositions / kWarp, 2> : pool_planar<T, S, kSomePositions / kWarp, 1>, grid,
             block, stream, activations, gradients, partial, shape, groups);
    }
  });
}

template <class T, Scheme S>
void pool_apart(const Problem& problem, const T* activations, const T* gradients, float* weights, float* partial,
                cudaStream_t stream) {
  const Shape& shape = problem.shape;
  if constexpr (weighs_channels(S)) {
    for_groups(problem, shape.channels, [&](const Groups& groups, unsigned size) {
      launch(weigh_channel<T, S>, dim3(size * shape.channels), dim3(kThreads), stream, activations, gradients, weights,
             shape, groups);
    });
  }
  const int per_tile = problem.channels_last ? kWarps : kThreads;
  const int64_t blocks = static_cast<int64_t>(shape.splits) * ((shape.positions + per_tile - 1) / per_tile);
  for_groups(problem, blocks, [&](const Groups& groups, unsigned size) {
    launch(problem.channels_last ? combine_channels_last<T, S> : combine_planar<T, S>,
           dim3(static_cast<unsigned>(size * blocks)), dim3(kThreads), stream, activations, gradients, weights, partial,
           shape, groups);
  });
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
