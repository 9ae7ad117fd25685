// The instruction sets that CPU kernels are compiled for.
#pragma once

// Two ways to compile a kernel for several instruction sets. WHYLIGHT_CLONES on a plain function, under which templates
// are forced inline, has the compiler make one per set and the loader pick; it serves loops that the compiler
// vectorises. Vectors written out are taken apart before such inlining, so a kernel made of them is compiled in one
// file per set, and `register_bytes` picks.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(WHYLIGHT_ONE_TARGET)
#  define WHYLIGHT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#  define WHYLIGHT_X86_TARGETS
#else
#  define WHYLIGHT_CLONES
#endif
