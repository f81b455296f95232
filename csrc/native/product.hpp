// Products of two matrices in float32, for training.
#pragma once

#include <mutex>
#include <vector>

#include "strips.hpp"

namespace nanochat {

// No number depends on how many threads there are.
class Product {
public:
    Product(const Kernels& kernels, int threads) : k(kernels), pieces(threads < 1 ? 1 : threads), pool(threads, 2) {}

    // out (n, m) = a (n, inputs) times b, which lies as (inputs, m), or as (m, inputs) if `turned`.
    void multiply(const float* a, const float* b, bool turned, size_t n, size_t inputs, size_t m, float* out);

private:
    static constexpr size_t MOST = 96;    // rows in a piece, which a thread takes at once
    static constexpr size_t EACH = 4;     // pieces for each thread, at least, or those that are ready first would wait
    static constexpr size_t STRIPS = 4;   // that are laid out at once
    static constexpr size_t BLOCK = 256;  // inputs at once, so that a strip of them stays in the first cache or near it

    struct Piece {
        Room tiles, sums;  // of a, and of out in strips
    };

    const Kernels& k;
    std::mutex one;  // call at a time
    Room strips;     // of b, block after block of its inputs
    std::vector<Piece> pieces;  // of each thread
    Pool pool;                  // last, so that its threads end before what they read
};

}  // namespace nanochat
