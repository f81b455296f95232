#include "head.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nanochat {

namespace {
constexpr size_t SLOPES = 1 << 26;  // that exist at once, if they are those of more than a piece: 256 MB
constexpr size_t BLOCK = 256;  // of the vocabulary: its slopes stay in the second cache for their second product
}  // namespace

double Head::loss(const float* given, size_t rows, size_t inputs, const float* weights, size_t outputs,
                  const int64_t* wanted, float softcap, float* by_h, float* by_w) {
    std::lock_guard<std::mutex> lock(one);
    h = given, n = rows, width = inputs, w = weights, vocab = outputs, targets = wanted, cap = softcap;
    grad_h = by_h, grad_w = by_w;
    if (!n) {
        std::fill(by_w, by_w + vocab * width, 0.0f);
        return 0;
    }
    size_t columns = k.columns;
    strips = whole(vocab, columns), padded = whole(width, columns) * columns;
    size_t most = std::max<size_t>(1, SLOPES / (strips * columns * PIECE));
    chunk_rows = std::min(n, std::min<size_t>(std::max(4, 2 * pool.size), most) * PIECE);
    across.reserve(strips * width * columns);
    along.reserve(whole(vocab, BLOCK) * BLOCK * padded);
    grads.reserve(strips * width * columns);
    slopes.reserve(strips * chunk_rows * columns);
    scaled.reserve(whole(width, k.tall) * k.tall * chunk_rows);
    states.reserve(size_t(pool.size) * whole(PIECE, k.tall) * k.tall * width);
    sums.reserve(size_t(pool.size) * PIECE * LANES);
    out.reserve(size_t(pool.size) * PIECE * padded);
    at_target.resize(n);
    ordered.clear();
    for (size_t i = 0; i < n; i++)
        if (targets[i] >= 0) ordered.push_back({size_t(targets[i]), i});
    std::sort(ordered.begin(), ordered.end());

    auto by_strips = [this](auto work) {
        share(pool, whole(strips, STRIPS), [&](size_t group, int) {
            for (size_t s = group * STRIPS; s < std::min(strips, (group + 1) * STRIPS); s++) work(s);
        });
    };
    share(pool, whole(vocab, BLOCK), [this](size_t block, int) { pack(block); });
    for (first = 0; first < n; first += chunk_rows) {
        chunk_rows = std::min(chunk_rows, n - first);
        share(pool, whole(chunk_rows, PIECE), [this](size_t piece, int thread) { take(piece * PIECE, thread); });
        by_strips([this](size_t strip) { add_gradient(strip); });
    }
    by_strips([this](size_t strip) { unpack(strip); });
    double total = 0;
    for (auto& target : at_target) total += target.loss;
    return total;
}

// A block of the vocabulary, for the logits and for the gradient by h.
void Head::pack(size_t block) {
    size_t columns = k.columns, from = block * BLOCK, to = std::min(from + BLOCK, strips * columns);
    size_t rows = std::min(to, vocab) - from;
    pack_along(w + from * width, rows, width, columns, along.get() + from * padded);
    k.bands(w + from * width, width, false, int(rows), int(width), true, across.get() + from * width);
}

// Rows of the chunk from `begin` on: their losses, slopes, and gradients by h.
void Head::take(size_t begin, int thread) {
    size_t columns = k.columns, rows = std::min(chunk_rows - begin, size_t(PIECE)), row = first + begin;
    float *sum = sums.get() + size_t(thread) * PIECE * LANES, *y = out.get() + size_t(thread) * PIECE * padded;
    std::fill(sum, sum + rows * LANES, 0.0f);
    Target here[PIECE];
    size_t count = 0, next = 0;
    for (size_t i = row; i < row + rows; i++)
        if (targets[i] >= 0) here[count++] = {size_t(targets[i]), i};
    std::sort(here, here + count);
    float* tiles = states.get() + size_t(thread) * whole(PIECE, k.tall) * k.tall * width;
    k.bands(h + row * width, width, false, int(rows), int(width), false, tiles);
    Factor factor{tiles, k.tall * width, 1, int(width), size_t(k.tall), 0};
    for (size_t from = 0; from < vocab; from += BLOCK) {
        size_t to = std::min(from + BLOCK, strips * columns);
        float* slope = slopes.get() + from * chunk_rows + begin * columns;
        for (size_t v = from; v < to; v += columns) {
            float* logits = slope + (v - from) * chunk_rows;
            k.strip(factor, across.get() + v * width, int(rows), int(width), logits, columns, false);
            for (; next < count && here[next].id < v + columns; next++) {
                float& logit = logits[(here[next].row - row) * columns + here[next].id - v];
                at_target[here[next].row].logit = logit;
                logit = -std::numeric_limits<float>::infinity();  // has no slope
            }
            k.slopes(logits, int(rows), int(std::min(columns, vocab - v)), cap, sum);
        }
        Factor found{slope, k.tall * columns, columns, int(columns), 1, chunk_rows * columns};
        for (size_t q = 0; q < padded; q += columns)
            k.strip(found, along.get() + from * padded + q * (to - from), int(rows), int(to - from), y + q, padded,
                    from > 0);
    }
    for (size_t i = 0; i < rows; i++) {
        double others = 0, share = 0;
        for (int lane = 0; lane < LANES; lane++) others += sum[i * LANES + lane];
        AtTarget& at = at_target[row + i];
        const float* state = h + (row + i) * width;
        float* grad = grad_h + (row + i) * width;
        at.pull = 0, at.loss = 0;
        if (targets[row + i] < 0) {
            std::fill(grad, grad + width, 0.0f);
        } else {
            // Without the target's own part: near p = 1 the difference p - 1 would be all rounding error.
            double z = std::tanh(double(at.logit) / cap), e = std::exp(cap * z);
            others = others - std::exp(-double(cap));
            others = others < 0 ? 0 : others;  // what is no number stays so
            share = 1 / (others + e);
            at.loss = std::log(others + e) - cap * z;
            at.pull = -others * share * (1 - z * z);
            const float* weights = w + size_t(targets[row + i]) * width;
            for (size_t j = 0; j < width; j++) grad[j] = y[i * padded + j] * float(share) + float(at.pull) * weights[j];
        }
        for (size_t j = 0; j < width; j++)
            scaled[(j / k.tall * chunk_rows + begin + i) * k.tall + j % k.tall] = state[j] * float(share);
    }
}

void Head::add_gradient(size_t strip) {
    Factor factor{scaled.get(), chunk_rows * k.tall, 1, int(chunk_rows), size_t(k.tall), 0};
    k.strip(factor, slopes.get() + strip * chunk_rows * k.columns, int(width), int(chunk_rows),
            grads.get() + strip * width * k.columns, k.columns, first > 0);
}

void Head::unpack(size_t strip) {
    size_t columns = k.columns, from = strip * columns, to = std::min(from + columns, vocab);
    unpack_across(grads.get() + from * width, to - from, width, columns, grad_w + from * width);
    for (auto at = std::lower_bound(ordered.begin(), ordered.end(), Target{from, 0});
         at != ordered.end() && at->id < to; ++at)
        k.add_scaled(grad_w + at->id * width, float(at_target[at->row].pull), h + at->row * width, int(width));
}

}  // namespace nanochat
