#include "product.hpp"

namespace nanochat {

void Product::multiply(const float* a, const float* b, bool turned, size_t n, size_t inputs, size_t m, float* out) {
    std::lock_guard<std::mutex> lock(one);
    if (!inputs) std::fill(out, out + n * m, 0.0f);
    if (!n || !m || !inputs) return;
    size_t tall = k.tall, columns = k.columns, padded = whole(m, columns) * columns, group = STRIPS * columns;
    size_t tiles = whole(n, tall), count = std::max(whole(n, MOST), std::min(tiles, EACH * pieces.size()));
    size_t most = whole(tiles, count) * tall;  // rows of a piece
    strips.reserve(padded * inputs);
    for (auto& piece : pieces) piece.tiles.reserve(most * BLOCK), piece.sums.reserve(most * padded);

    std::function<void(Pool::Turn&)> job = [&](Pool::Turn& turn) {
        turn.share(int(whole(m, group)), [&](int index) {
            size_t begin = index * group, rows = std::min(group, m - begin);
            for (size_t from = 0; from < inputs; from += BLOCK) {
                size_t here = std::min(BLOCK, inputs - from);
                const float* part = turned ? b + begin * inputs + from : b + from * m + begin;
                k.bands(part, turned ? inputs : m, !turned, int(rows), int(here), true,
                        strips.get() + from * padded + begin * here);
            }
        });
        turn.share(int(count), [&](int index) {
            Piece& piece = pieces[turn.thread];
            size_t begin = index * tiles / count * tall, end = (index + 1) * tiles / count * tall;
            size_t rows = std::min(end, n) - begin;
            for (size_t from = 0; from < inputs; from += BLOCK) {
                size_t here = std::min(BLOCK, inputs - from);
                k.bands(a + begin * inputs + from, inputs, false, int(rows), int(here), false, piece.tiles.get());
                Factor factor{piece.tiles.get(), tall * here, 1, int(here), tall, 0};
                for (size_t c = 0; c < m; c += columns) {
                    const float* strip = strips.get() + from * padded + c * here;
                    float* y = out + begin * m + c;
                    if (inputs <= BLOCK && c + columns <= m) {
                        k.strip(factor, strip, int(rows), int(here), y, m, false);
                        continue;
                    }
                    // Sums that are added to lie together: rows of `out` may keep each other out of the cache.
                    float* sums = piece.sums.get() + c * rows;
                    k.strip(factor, strip, int(rows), int(here), sums, columns, from > 0);
                    if (from + here < inputs) continue;
                    size_t left = std::min(columns, m - c);
                    for (size_t i = 0; i < rows; i++) std::copy_n(sums + i * columns, left, y + i * m);
                }
            }
        });
    };
    pool.run(job);
    pool.settle();
}

}  // namespace nanochat
