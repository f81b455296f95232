// Laying out matrices for the products of a training (`Kernels::strip`).
#pragma once

#include <algorithm>
#include <functional>

#include "kernels.hpp"
#include "matrix.hpp"
#include "pool.hpp"

namespace nanochat {

inline size_t whole(size_t n, size_t unit) { return (n + unit - 1) / unit; }

// Memory that grows, and keeps nothing when it does.
struct Room {
    Buffer<float> data;
    size_t held = 0;
    void reserve(size_t size) {
        if (size > held) data.reset(), held = 0, data = buffer<float>(size), held = size;
    }
    float* get() { return data.get(); }
    float& operator[](size_t i) { return data[i]; }
};

// work(piece, thread) for every piece below `count`.
template <typename Work>
void share(Pool& pool, size_t count, Work work) {
    std::function<void(Pool::Turn&)> job = [&](Pool::Turn& turn) {
        turn.share(int(count), [&](int piece) { work(size_t(piece), turn.thread); });
    };
    pool.run(job);
    pool.settle();
}

// Rows of what lies in strips across, (width, columns) for each `columns` of them.
inline void unpack_across(const float* strips, size_t n, size_t width, size_t columns, float* rows) {
    for (size_t from = 0; from < n; from += columns, rows += columns * width, strips += width * columns)
        for (size_t i = 0; i < width; i += 16)
            for (size_t j = 0; j < std::min(columns, n - from); j++)
                for (size_t e = i; e < std::min(width, i + 16); e++) rows[j * width + e] = strips[e * columns + j];
}

// Strips of rows: for each `columns` of the width, (padded, columns), where n is padded to whole strips. Zeros follow
// the last row and the last column.
inline void pack_along(const float* rows, size_t n, size_t width, size_t columns, float* strips) {
    size_t padded = whole(n, columns) * columns;
    for (size_t from = 0; from < width; from += columns, strips += padded * columns) {
        size_t here = std::min(columns, width - from);
        if (here < columns || n < padded) std::fill(strips, strips + padded * columns, 0.0f);
        for (size_t i = 0; i < n; i++) std::copy_n(rows + i * width + from, here, strips + i * columns);
    }
}

}  // namespace nanochat
