// The little that a test program needs: deterministic numbers, poisoned memory, a comparison that says what failed.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace whylight::testing {

inline int failures = 0;

inline void expect(bool held, const char* what, const std::vector<long>& where) {
  if (held) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s at", what);
  for (long n : where) std::fprintf(stderr, " %ld", n);
  std::fprintf(stderr, "\n");
  if (failures == 20) std::exit(1);  // more would say the same
}

inline std::vector<float> normal(size_t count, unsigned seed, float scale = 1.f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution(0.f, scale);
  std::vector<float> values(count);
  for (float& v : values) v = distribution(random);
  return values;
}

// Exactly as large as asked for, so that AddressSanitizer sees one element too far, and NaN where nothing is written.
inline std::vector<float> poisoned(size_t count) {
  return std::vector<float>(count, NAN);
}

inline bool close(float actual, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(actual);
  return std::fabs(actual - expected) <= tolerance * (1 + std::fabs(expected));
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace whylight::testing
