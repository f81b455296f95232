#include "attention.hpp"

#include <cmath>

namespace nanochat {

Attention::Block Attention::block_at(const Heads& h, size_t begin) const {
    size_t end = std::min(begin + BLOCK, h.T), columns = k.columns;
    size_t first = (begin > h.window ? begin - h.window : 0) / columns;
    return {begin, end - begin, first, whole(end, columns) - first,
            {int(begin), int(first * columns), int(std::min(h.window, h.T))}};
}

// The first queries of a block, which see nothing of a strip of keys: whole tiles of them.
size_t Attention::blind(const Block& b, size_t strip) const {
    size_t key = (b.first + strip) * k.columns;
    return key > b.begin ? (key - b.begin) / k.tall * k.tall : 0;
}

// (strips, rows, columns), of strips of what is multiplied with the queries; 0 for the blind.
void Attention::scores(const float* queries, const Block& b, const float* across, size_t dim, float* scores) const {
    for (size_t s = 0; s < b.strips; s++, scores += b.rows * k.columns) {
        size_t from = blind(b, s);
        std::fill(scores, scores + from * k.columns, 0.0f);
        Factor rows{queries + (b.begin + from) * dim, k.tall * dim, dim, int(dim), 1, 0};
        k.strip(rows, across + (b.first + s) * dim * k.columns, int(b.rows - from), int(dim),
                scores + from * k.columns, k.columns, false);
    }
}

// out (rows, dim rounded up) = the scores times what lies along.
void Attention::weigh(const float* scores, const Block& b, const float* along, const Heads& h, float* out) const {
    size_t columns = k.columns, padded = padded_to(h.dim), positions = padded_to(h.T);
    for (size_t row = 0; row < b.rows; row += GROUP) {
        size_t end = std::min(row + GROUP, b.rows), strips = whole(b.begin + end, columns) - b.first;
        Factor rows{scores + row * columns, k.tall * columns, columns, int(columns), 1, b.rows * columns};
        for (size_t q = 0; q < padded; q += columns)
            k.strip(rows, along + q * positions + b.first * columns * columns, int(end - row), int(strips * columns),
                    out + row * padded + q, padded, false);
    }
}

void Attention::forward(const Heads& h, float* out, float* logs) {
    std::lock_guard<std::mutex> lock(one);
    size_t columns = k.columns, positions = padded_to(h.T), padded = padded_to(h.dim);
    for (auto& room : rooms) {
        room.keys_across.reserve(positions * h.dim);
        room.values_along.reserve(positions * padded);
        room.scores.reserve(positions * BLOCK);
        room.out.reserve(BLOCK * padded);
    }
    share(pool, h.n, [&](size_t head, int thread) {
        Rooms& r = rooms[thread];
        size_t at = head * h.T * h.dim;
        k.bands(h.k + at, h.dim, false, int(h.T), int(h.dim), true, r.keys_across.get());
        pack_along(h.v + at, h.T, h.dim, columns, r.values_along.get());
        for (size_t begin = 0; begin < h.T; begin += BLOCK) {
            Block b = block_at(h, begin);
            scores(h.q + at, b, r.keys_across.get(), h.dim, r.scores.get());
            k.soften(r.scores.get(), int(b.rows), int(b.strips), b.seen, h.scale, r.most, r.sums);
            weigh(r.scores.get(), b, r.values_along.get(), h, r.out.get());
            for (size_t i = 0; i < b.rows; i++) {
                float by = 1 / r.sums[i], *row = out + at + (begin + i) * h.dim;
                for (size_t j = 0; j < h.dim; j++) row[j] = r.out[i * padded + j] * by;
                logs[head * h.T + begin + i] = r.most[i] + std::log(r.sums[i]);
            }
        }
    });
}

void Attention::backward(const Heads& h, const float* logs, const float* grad, float* by_q, float* by_k, float* by_v) {
    std::lock_guard<std::mutex> lock(one);
    size_t columns = k.columns, positions = padded_to(h.T), padded = padded_to(h.dim);
    for (auto& room : rooms) {
        for (Room* each : {&room.keys_across, &room.values_across, &room.by_keys, &room.by_values})
            each->reserve(positions * h.dim);
        for (Room* each : {&room.scores, &room.slopes}) each->reserve(positions * BLOCK);
        room.keys_along.reserve(positions * padded);
        room.out.reserve(BLOCK * padded);
    }
    share(pool, h.n, [&](size_t head, int thread) {
        Rooms& r = rooms[thread];
        size_t at = head * h.T * h.dim;
        k.bands(h.k + at, h.dim, false, int(h.T), int(h.dim), true, r.keys_across.get());
        k.bands(h.v + at, h.dim, false, int(h.T), int(h.dim), true, r.values_across.get());
        pack_along(h.k + at, h.T, h.dim, columns, r.keys_along.get());
        std::fill(r.by_keys.get(), r.by_keys.get() + positions * h.dim, 0.0f);
        std::fill(r.by_values.get(), r.by_values.get() + positions * h.dim, 0.0f);
        for (size_t begin = 0; begin < h.T; begin += BLOCK) {
            Block b = block_at(h, begin);
            scores(h.q + at, b, r.keys_across.get(), h.dim, r.scores.get());
            scores(grad + at, b, r.values_across.get(), h.dim, r.slopes.get());
            k.soft_slopes(r.scores.get(), r.slopes.get(), int(b.rows), int(b.strips), b.seen, h.scale,
                          logs + head * h.T + begin);
            weigh(r.slopes.get(), b, r.keys_along.get(), h, r.out.get());
            for (size_t i = 0; i < b.rows; i++)
                std::copy_n(r.out.get() + i * padded, h.dim, by_q + at + (begin + i) * h.dim);
            // By keys and values as they lie across: rows of these products are the vectors' elements.
            auto add = [&](const float* rows, const float* slopes, float* sums) {
                for (size_t s = 0; s < b.strips; s++) {
                    size_t from = blind(b, s), left = b.rows - from;
                    Factor elements{rows + at + (begin + from) * h.dim, size_t(k.tall), 1, int(left), h.dim, 0};
                    k.strip(elements, slopes + (s * b.rows + from) * columns, int(h.dim), int(left),
                            sums + (b.first + s) * h.dim * columns, columns, true);
                }
            };
            add(h.q, r.slopes.get(), r.by_keys.get());
            add(grad, r.scores.get(), r.by_values.get());
        }
        unpack_across(r.by_keys.get(), h.T, h.dim, columns, by_k + at);
        unpack_across(r.by_values.get(), h.T, h.dim, columns, by_v + at);
    });
}

}  // namespace nanochat
