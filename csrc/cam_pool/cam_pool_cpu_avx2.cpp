// The CPU kernels of cam_pool for x86-64-v3 (AVX2).
#define WHYLIGHT_TARGET "arch=x86-64-v3"
#define WHYLIGHT_REGISTER_BYTES 32
#define WHYLIGHT_POOL pool_avx2
#include "cam_pool_cpu_x86.h"
