// The Python module nanochat.inference._native: computing tokens on a CPU.

#include <nanobind/nanobind.h>

namespace nb = nanobind;

NB_MODULE(_native, m) {}
