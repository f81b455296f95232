// Products of two matrices in float32, for training.
#pragma once

#include <mutex>
#include <vector>

#include "strips.hpp"

namespace nanochat {

// A factor (rows, inputs) as it lies in memory, or with `turned` its transpose.
struct Side {
    const float* data;
    size_t ld;
    bool turned;
    const float* at(size_t row, size_t input) const { return data + (turned ? input * ld + row : row * ld + input); }
};

// No number depends on how many threads there are.
class Product {
public:
    Product(const Kernels& kernels, int threads) : k(kernels), rooms(threads < 1 ? 1 : threads), pool(threads, 2) {}

    // out (n, m) = a (n, inputs) times the transpose of b (m, inputs).
    void multiply(const Side& a, size_t n, const Side& b, size_t m, size_t inputs, float* out);

private:
    static constexpr size_t PIECE = 96;   // rows or columns that a thread takes at once, at most
    static constexpr size_t BLOCK = 256;  // inputs at once: those of a strip stay in the first cache

    const Kernels& k;
    std::mutex one;  // call at a time
    Room whole_side;  // of the shorter one, by blocks of inputs
    struct Rooms {    // of a thread: a piece of the longer one, and its outputs by strips
        Room piece, sums;
    };
    std::vector<Rooms> rooms;
    Pool pool;  // last, so that its threads end before what they read
};

}  // namespace nanochat
