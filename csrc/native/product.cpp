#include "product.hpp"

namespace nanochat {

void Product::multiply(const Side& a, size_t n, const Side& b, size_t m, size_t inputs, float* out) {
    std::lock_guard<std::mutex> lock(one);
    if (!inputs) std::fill(out, out + n * m, 0.0f);
    if (!n || !m || !inputs) return;
    // The longer side is laid out by the pieces that it is cut into, which threads take; the shorter one before.
    size_t tall = k.tall, columns = k.columns;
    bool by_rows = n >= m;
    const Side &longer = by_rows ? a : b, &shorter = by_rows ? b : a;
    size_t length = by_rows ? n : m, unit = by_rows ? tall : columns;
    size_t width = by_rows ? m : n, other = by_rows ? columns : tall;
    size_t padded = whole(width, other) * other, groups = whole(width, 4 * other);
    size_t units = whole(length, unit), pieces = std::max(whole(length, PIECE), std::min(units, 4 * rooms.size()));
    size_t most = whole(units, pieces) * unit;  // of a piece
    whole_side.reserve(padded * inputs);
    for (auto& room : rooms) room.piece.reserve(most * BLOCK), room.sums.reserve(most * (by_rows ? padded : n));

    std::function<void(Pool::Turn&)> job = [&](Pool::Turn& turn) {
        turn.share(int(groups), [&](int group) {
            size_t begin = group * 4 * other, count = std::min(4 * other, width - begin);
            for (size_t from = 0; from < inputs; from += BLOCK) {
                size_t here = std::min(BLOCK, inputs - from);
                k.bands(shorter.at(begin, from), shorter.ld, shorter.turned, int(count), int(here), by_rows,
                        whole_side.get() + from * padded + begin * here);
            }
        });
        turn.share(int(pieces), [&](int index) {
            Rooms& room = rooms[turn.thread];
            size_t begin = index * units / pieces * unit, end = (index + 1) * units / pieces * unit;
            size_t count = std::min(end, length) - begin;
            for (size_t from = 0; from < inputs; from += BLOCK) {
                size_t here = std::min(BLOCK, inputs - from);
                k.bands(longer.at(begin, from), longer.ld, longer.turned, int(count), int(here), !by_rows,
                        room.piece.get());
                const float* there = whole_side.get() + from * padded;
                const float *rows = by_rows ? room.piece.get() : there, *strips = by_rows ? there : room.piece.get();
                size_t height = by_rows ? count : n, wide = by_rows ? m : count;
                float* y = by_rows ? out + begin * m : out + begin;
                Factor factor{rows, tall * here, 1, int(here), tall, 0};
                for (size_t c = 0; c < wide; c += columns) {
                    bool apart = inputs > BLOCK || c + columns > wide;
                    float* sums = apart ? room.sums.get() + c * height : y + c;
                    k.strip(factor, strips + c * here, int(height), int(here), sums, apart ? columns : m, from > 0);
                    if (!apart || from + here < inputs) continue;
                    for (size_t i = 0, left = std::min(columns, wide - c); i < height; i++)
                        std::copy_n(sums + i * columns, left, y + i * m + c);
                }
            }
        });
    };
    pool.run(job);
    pool.settle();
}

}  // namespace nanochat
