// The cross-entropy of a linear head with its gradients, in float32, for training.
#pragma once

#include <compare>
#include <cstdint>
#include <mutex>
#include <vector>

#include "strips.hpp"

namespace nanochat {

class Head {
public:
    Head(const Kernels& kernels, int threads) : k(kernels), pool(threads, 1) {}

    // The sum over targets >= 0 of the cross-entropies, in nats, of logits cap * tanh(h w^T / cap): h (n, width),
    // w (vocab, width), targets below vocab. Its gradients are written to by_h and by_w. No number depends on how many
    // threads there are.
    double loss(const float* h, size_t n, size_t width, const float* w, size_t vocab, const int64_t* targets,
                float cap, float* by_h, float* by_w);

private:
    static constexpr size_t PIECE = 96;  // rows that a thread takes at once
    static constexpr size_t STRIPS = 4;  // of the vocabulary, likewise

    struct AtTarget {
        float logit;
        double pull, loss;  // pull: the gradient of its logit
    };
    struct Target {
        size_t id, row;
        auto operator<=>(const Target&) const = default;
    };

    void pack(size_t block);
    void take(size_t begin, int thread);
    void add_gradient(size_t strip);
    void unpack(size_t strip);

    const Kernels& k;
    std::mutex one;  // call at a time

    // Of the present call.
    const float *h, *w;
    float *grad_h, *grad_w;
    const int64_t* targets;
    float cap;
    size_t n, width, vocab, strips, padded;  // padded: whole strips
    size_t first, chunk_rows;                // of the rows whose slopes exist at once
    std::vector<AtTarget> at_target;
    std::vector<Target> ordered;

    // across: strips of w^T, (width, columns) each; along: of blocks of w; grads: as across; states: h in tiles.
    Room across, along, grads, slopes, states, scaled, sums, out;

    Pool pool;  // last, so that its threads end before what they read
};

}  // namespace nanochat
