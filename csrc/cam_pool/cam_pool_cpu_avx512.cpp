// The CPU kernels of cam_pool for x86-64-v4 (AVX-512).
#define WHYLIGHT_TARGET "arch=x86-64-v4"
#define WHYLIGHT_REGISTER_BYTES 64
#define WHYLIGHT_POOL pool_avx512
#include "cam_pool_cpu_x86.h"
