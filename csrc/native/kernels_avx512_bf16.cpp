#define LEVEL avx512_bf16
#include "kernels.inc"
