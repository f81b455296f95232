// A matrix (outputs, inputs) laid out for products with few rows: read once, from front to back.
//
// Outputs are grouped into panels. A panel holds the weights of all its outputs for the first input, then for the
// second, and so on; bf16 weights of two inputs lie side by side, as the processor's bf16 products want them. The last
// panel is filled up with zeros.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.hpp"

namespace nanochat {

inline float widen(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Memory of a buffer. Large ones are mapped for themselves, on Linux in pages of 2 MB: memory is fetched ahead within a
// page only, and what malloc gives again lies in pages of 4 kB.
struct Release {
    size_t mapped = 0;
    void operator()(void* p) const {
#if defined(__linux__)
        if (mapped) {
            munmap(p, mapped);
            return;
        }
#endif
        std::free(p);
    }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Release>;

// Not initialised, and aligned to a cache line.
template <typename T>
Buffer<T> buffer(size_t n) {
    size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
#if defined(__linux__)
    constexpr size_t PAGE = 2 << 20;
    if (bytes >= PAGE / 2) {
        size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
        void* p = mmap(nullptr, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) throw std::bad_alloc();
        auto first = reinterpret_cast<uintptr_t>(p), begin = (first + PAGE - 1) / PAGE * PAGE;
        if (begin > first) munmap(p, begin - first);
        if (first + PAGE > begin) munmap(reinterpret_cast<void*>(begin + whole), first + PAGE - begin);
        madvise(reinterpret_cast<void*>(begin), whole, MADV_HUGEPAGE);
        return Buffer<T>(reinterpret_cast<T*>(begin), Release{whole});
    }
#endif
#if defined(_WIN32)
    void* p = std::malloc(bytes);
#else
    void* p = std::aligned_alloc(64, bytes ? bytes : 64);
#endif
    if (!p) throw std::bad_alloc();
    return Buffer<T>(static_cast<T*>(p));
}

struct Matrix {
    int outputs, panel;
    size_t bytes;
    Buffer<uint8_t> data;
    Buffer<float> scale;  // (panels * panel), of int8 weights only
    Weights weights;

    Matrix(Kind kind, int outputs, int inputs, int panel) : outputs(outputs), panel(panel) {
        size_t panel_bytes = size_t(panel) * inputs * (kind == Kind::full ? 4 : kind == Kind::half ? 2 : 1);
        bytes = panels() * panel_bytes;
        data = buffer<uint8_t>(bytes);
        std::memset(data.get(), 0, bytes);
        if (kind == Kind::eight) {
            scale = buffer<float>(size_t(panels()) * panel);
            std::memset(scale.get(), 0, size_t(panels()) * panel * sizeof(float));
        }
        weights = {kind, inputs, panel_bytes, data.get(), scale.get()};
    }

    int panels() const { return (outputs + panel - 1) / panel; }

    // Fill the rows from `first` on with n rows (n, inputs).
    template <typename T>
    void pack(int first, int n, const T* rows) {
        for (int o = first; o < first + n; o++, rows += weights.inputs) {
            T* at = reinterpret_cast<T*>(data.get() + o / panel * weights.panel_bytes);
            int lane = o % panel;
            if (sizeof(T) == 2)
                for (int i = 0; i < weights.inputs; i++) at[(size_t(i / 2) * panel + lane) * 2 + i % 2] = rows[i];
            else
                for (int i = 0; i < weights.inputs; i++) at[size_t(i) * panel + lane] = rows[i];
        }
    }
};

}  // namespace nanochat
