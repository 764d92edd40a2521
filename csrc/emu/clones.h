// How a hot loop is compiled: once per x86-64 level, the best one picked when the library loads.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TRN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TRN_CLONES
#endif
#define TRN_INLINE __attribute__((always_inline)) inline
