// The part of CUDA that the kernels use, on one CPU thread: every thread of a block is a fiber, and fibers run in an
// order that a test chooses, from barrier to barrier. Shared memory starts poisoned in every block. What it cannot
// show: races between blocks, which run one after another, and bank conflicts or anything else of speed.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define SIMT_SHARED(type, name, count) \
  type* name = static_cast<type*>(simt::shared(#name, sizeof(type) * static_cast<size_t>(count)))

using cudaStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace simt {

enum class Order { kForward, kReverse, kRandom };
enum class Wait { kNothing, kBlock, kWarp };

constexpr size_t kStack = 64 << 10;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  Wait wait = Wait::kNothing;
  int line = 0;
  dim3 thread;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline unsigned current;
inline std::function<void()> body;
inline std::vector<float> exchange;
inline std::map<std::string, std::vector<char>> shared_memory;
inline Order order = Order::kForward;
inline dim3 block_index, block_size, grid_size;

inline void* shared(const char* name, size_t bytes) {
  auto& memory = shared_memory[name];
  if (memory.empty()) memory.assign(bytes, static_cast<char>(0xFF));  // NaN as float
  return memory.data();
}

inline void suspend(Wait wait, int line) {
  fibers[current].wait = wait;
  fibers[current].line = line;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void enter() {
  body();
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

[[noreturn]] inline void fail(const char* what, int line, int other) {
  std::fprintf(stderr, "simt: block %u: %s (lines %d, %d)\n", block_index.x, what, line, other);
  std::abort();
}

// Lets go the fibers in [begin, end) if all that still live wait for the same thing.
inline bool release(size_t begin, size_t end, Wait wait) {
  int line = 0;
  bool any = false;
  for (size_t i = begin; i < end; ++i) {
    if (fibers[i].done) continue;
    if (fibers[i].wait != wait) return false;
    if (any && fibers[i].line != line) fail("threads wait at different barriers", line, fibers[i].line);
    line = fibers[i].line;
    any = true;
  }
  for (size_t i = begin; i < end; ++i) fibers[i].wait = Wait::kNothing;
  return any;
}

inline void run_block(unsigned threads, std::mt19937& random) {
  shared_memory.clear();
  fibers.resize(threads);
  exchange.assign(threads, NAN);
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.stack.resize(kStack);  // kept from block to block
    fiber.done = false;
    fiber.wait = Wait::kNothing;
    fiber.thread = dim3(t % block_size.x, t / block_size.x % block_size.y, t / (block_size.x * block_size.y));
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  std::vector<unsigned> turn(threads);
  for (unsigned t = 0; t < threads; ++t) turn[t] = order == Order::kReverse ? threads - 1 - t : t;
  for (;;) {
    if (order == Order::kRandom) std::shuffle(turn.begin(), turn.end(), random);
    bool moved = false;
    for (unsigned t : turn) {
      if (fibers[t].done || fibers[t].wait != Wait::kNothing) continue;
      current = t;
      moved = true;
      swapcontext(&scheduler, &fibers[t].context);
    }
    if (std::all_of(fibers.begin(), fibers.end(), [](const Fiber& fiber) { return fiber.done; })) return;
    for (unsigned w = 0; w < threads; w += 32) moved |= release(w, std::min(w + 32, threads), Wait::kWarp);
    moved |= release(0, threads, Wait::kBlock);
    if (!moved) fail("deadlock: a barrier that not all threads reach", 0, 0);
  }
}

}  // namespace simt

#define threadIdx (simt::fibers[simt::current].thread)
#define blockIdx (simt::block_index)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)

inline void __syncthreads(int line = __builtin_LINE()) {
  simt::suspend(simt::Wait::kBlock, line);
}

// A 16-bit float, to have kernels read what is half as wide.
struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __shfl_xor_sync(unsigned, float value, int mask, int line = __builtin_LINE()) {
  simt::exchange[simt::current] = value;
  simt::suspend(simt::Wait::kWarp, line);
  const float other = simt::exchange[simt::current ^ static_cast<unsigned>(mask)];
  simt::suspend(simt::Wait::kWarp, line);
  return other;
}

namespace whylight {

inline float to_float(__nv_bfloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t, Arguments... arguments) {
  std::mt19937 random(7);
  std::vector<unsigned> blocks(grid.x * grid.y * grid.z);
  for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
  if (simt::order == simt::Order::kReverse) std::reverse(blocks.begin(), blocks.end());
  if (simt::order == simt::Order::kRandom) std::shuffle(blocks.begin(), blocks.end(), random);
  simt::block_size = block;
  simt::grid_size = grid;
  simt::body = [&] { kernel(arguments...); };
  for (unsigned b : blocks) {
    simt::block_index = dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y));
    simt::run_block(block.x * block.y * block.z, random);
  }
}

}  // namespace whylight
