// Causal attention and its gradients, in float32, for training.
#pragma once

#include <mutex>
#include <vector>

#include "strips.hpp"

namespace nanochat {

// What is attended to: n heads of T positions, q, k and v (n, T, dim). A query sees itself and `window` keys before it.
struct Heads {
    const float *q, *k, *v;
    size_t n, T, dim, window;
    float scale;  // of the scores
};

// No number depends on how many threads there are.
class Attention {
public:
    Attention(const Kernels& kernels, int threads) : k(kernels), rooms(threads < 1 ? 1 : threads), pool(threads, 1) {}

    // out (n, T, dim) = softmax(scale * q k^T) v; logs (n, T): of the sums of e^score, for `backward`.
    void forward(const Heads& heads, float* out, float* logs);

    // The gradients by q, k and v, given that by out.
    void backward(const Heads& heads, const float* logs, const float* grad, float* by_q, float* by_k, float* by_v);

private:
    static constexpr size_t BLOCK = 72;  // queries at once
    static constexpr size_t GROUP = 24;  // of them whose keys end together: whole tiles

    struct Rooms {  // of a thread
        Room keys_across, keys_along, values_across, values_along, scores, slopes, out, by_keys, by_values;
        float most[BLOCK], sums[BLOCK];
    };
    struct Block {  // of queries, and what they see
        size_t begin, rows, first, strips;  // first: strip
        Seen seen;
    };

    size_t padded_to(size_t n) const { return whole(n, k.columns) * k.columns; }  // whole strips
    Block block_at(const Heads& heads, size_t begin) const;
    size_t blind(const Block& block, size_t strip) const;
    void scores(const float* queries, const Block& block, const float* keys_across, size_t dim, float* scores) const;
    void weigh(const float* scores, const Block& block, const float* along, const Heads& heads, float* out) const;

    const Kernels& k;
    std::mutex one;  // call at a time
    std::vector<Rooms> rooms;
    Pool pool;  // last, so that its threads end before what they read
};

}  // namespace nanochat
