#include "decoder.hpp"

#include <algorithm>
#include <cmath>

namespace nanochat {

namespace {

int whole(int n, int panel) { return (n + panel - 1) / panel * panel; }

void read_row(const Table& table, size_t row, float* out) {
    if (table.half) {
        auto* at = static_cast<const uint16_t*>(table.data) + row * table.width;
        for (int i = 0; i < table.width; i++) out[i] = widen(at[i]);
    } else {
        std::memcpy(out, static_cast<const float*>(table.data) + row * table.width, table.width * sizeof(float));
    }
}

float dot(const float* a, const float* b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

Decoder::Decoder(Model model, const Kernels& k, int threads)
    : kernels(k), m(std::move(model)), pool(threads, 8 * m.sizes.depth + 4) {
    const Sizes& s = m.sizes;
    int panel = kernels.panel, width = s.width;
    dim = whole(s.head_dim, LANES);
    qkv_width = whole((s.heads + 2 * s.kv_heads) * s.head_dim, panel);
    hidden = whole(4 * width, panel);
    int padded = whole(width, panel);
    for (auto* b : {&x, &x0, &middle, &pairs, &seen}) *b = buffer<float>(size_t(ROWS) * width);
    qkv = buffer<float>(size_t(ROWS) * qkv_width);
    q = buffer<float>(size_t(ROWS) * (s.heads + 2 * s.kv_heads) * dim);
    y = buffer<float>(size_t(ROWS) * padded);
    h = buffer<float>(size_t(ROWS) * hidden);
    raw = buffer<float>(size_t(ROWS) * whole(s.vocab, panel));
    inputs = buffer<float>(size_t(ROWS) * width);
    inner = buffer<float>(size_t(ROWS) * 4 * width);
}

size_t Decoder::row_bytes() const { return size_t(dim) * (m.sizes.half ? 2 : 4); }

size_t Decoder::offset(const Slot& slot, int layer, int head) const {
    return (size_t(layer) * m.sizes.kv_heads + head) * slot.capacity * row_bytes();
}

void Decoder::reserve(int index, int positions) {
    if (index >= int(slots.size())) slots.resize(index + 1);
    Slot& slot = slots[index];
    if (positions <= slot.capacity) return;
    Slot larger;
    larger.capacity = std::max({whole(positions, LANES), 2 * slot.capacity, 128});
    size_t bytes = offset(larger, m.sizes.depth, 0);
    larger.keys = buffer<uint8_t>(bytes);
    larger.values = buffer<uint8_t>(bytes);
    if (slot.capacity) copy(slot, larger, slot.capacity);
    slot = std::move(larger);
}

void Decoder::copy(Slot& source, Slot& target, int length) {
    size_t bytes = whole(length, LANES) * row_bytes();  // keys lie in blocks
    for (int l = 0; l < m.sizes.depth; l++)
        for (int g = 0; g < m.sizes.kv_heads; g++) {
            std::memcpy(keys(target, l, g), keys(source, l, g), bytes);
            std::memcpy(values(target, l, g), values(source, l, g), bytes);
        }
}

void Decoder::reserve_scratch(int positions) {
    if (positions <= scored) return;
    int room = std::max(whole(positions, LANES), 2 * scored);
    scratch = buffer<float>(size_t(pool.size) * scratch_width(room));
    scored = room;
}

void Decoder::copy(int source, const std::vector<int>& targets, int length) {
    Hold hold(holder);
    reserve(source, length);
    for (int target : targets) {
        reserve(target, length);
        copy(slots[source], slots[target], length);
    }
}

void Decoder::step(const std::vector<Row>& all, float* out) {
    Hold hold(holder);
    pool.settle();
    int positions = 0;
    for (const Row& row : all) {
        reserve(row.slot, row.position + 1);
        positions = std::max(positions, row.position + 1);
    }
    reserve_scratch(positions);
    wanted.reserve(ROWS);
    for (size_t first = 0; first < all.size(); first += ROWS) {
        pool.settle();
        rows = all.data() + first;
        n = int(std::min(all.size() - first, size_t(ROWS)));
        wanted.clear();
        for (int i = 0; i < n; i++)
            if (rows[i].wanted) wanted.push_back(i);
        logits = out;
        pool.run(job);
        out += wanted.size() * m.sizes.vocab;
    }
}

// what(i, end) for every i below `count`, in runs, of which `end` is the present one's: few, since taking one takes
// time, but enough for a thread to take over from another.
template <typename What>
void Decoder::in_runs(Pool::Turn& turn, int count, What what) {
    int run = std::max(1, count / (4 * pool.size));
    turn.share((count + run - 1) / run, [&](int piece) {
        int end = std::min(count, (piece + 1) * run);
        for (int i = piece * run; i < end; i++) what(i, end);
    });
}

// Runs of panels are shared among the threads; `after` then sees a row's columns [from, to).
template <typename After>
void Decoder::multiply(Pool::Turn& turn, const Matrix& w, const Buffer<float>& in, int count, float* out, int ldy,
                       After after) {
    int panels = w.panels(), run = std::max(1, panels / (4 * pool.size));
    turn.share((panels + run - 1) / run, [&](int i) {
        int first = i * run, last = std::min(panels, first + run);
        kernels.product(w.weights, in.get(), count, out, ldy, first, last);
        int from = first * w.panel, to = std::min(last * w.panel, w.outputs);
        for (int r = 0; r < count; r++) after(r, from, to);
    });
}

void Decoder::work(Pool::Turn& turn) noexcept {
    const Sizes& s = m.sizes;
    int width = s.width, padded = whole(width, kernels.panel), heads = s.heads + 2 * s.kv_heads;
    auto add_to_x = [&](int i, int from, int to) {
        kernels.add(at(x, i, width) + from, at(y, i, padded) + from, to - from);
    };

    float* own = scratch.get() + turn.thread * scratch_width(scored);
    turn.share(n, [&](int i) { embed(i); });
    for (int l = 0; l < s.depth; l++) {
        const Layer& layer = m.layers[l];
        turn.share(n, [&](int i) {
            mix(i, layer);
            kernels.take(layer.qkv->weights, at(seen, i, width), i, n, 0, width, inputs.get());
        });
        multiply(turn, *layer.qkv, inputs, n, qkv.get(), qkv_width, [](int, int, int) {});
        in_runs(turn, n * heads, [&](int i, int) { place(i / heads, l, i % heads); });
        in_runs(turn, n * s.heads, [&](int i, int end) { attend(i, l, i + 1 < end ? i + 1 : -1, own); });
        multiply(turn, *layer.out, inputs, n, y.get(), padded, add_to_x);
        turn.share(n, [&](int i) {
            kernels.norm(at(x, i, width), at(seen, i, width), width, s.eps);
            kernels.take(layer.up->weights, at(seen, i, width), i, n, 0, width, inputs.get());
        });
        multiply(turn, *layer.up, inputs, n, h.get(), hidden, [&](int i, int from, int to) {
            float* part = at(h, i, hidden) + from;
            kernels.relu_squared(part, to - from);
            kernels.take(layer.down->weights, part, i, n, from, to, inner.get());
        });
        multiply(turn, *layer.down, inner, n, y.get(), padded, [&](int i, int from, int to) {
            add_to_x(i, from, to);
            if (m.modern && l == s.depth / 2)
                std::memcpy(at(middle, i, width) + from, at(x, i, width) + from, (to - from) * sizeof(float));
        });
    }

    int count = int(wanted.size()), raw_width = whole(s.vocab, kernels.panel);
    turn.share(count, [&](int k) {
        float* state = at(x, wanted[k], width);
        if (m.modern) kernels.add_scaled(state, -m.backout, at(middle, wanted[k], width), width);
        kernels.norm(state, at(seen, k, width), width, s.eps);
        kernels.take(m.head->weights, at(seen, k, width), k, count, 0, width, inputs.get());
    });
    multiply(turn, *m.head, inputs, count, raw.get(), raw_width, [&](int k, int from, int to) {
        kernels.softcap(at(raw, k, raw_width) + from, logits + size_t(k) * s.vocab + from, to - from, s.softcap);
    });
}

// The token's vector; in the modern model with a gated share of the token before, and what later layers add again.
void Decoder::embed(int i) {
    const Row& row = rows[i];
    int width = m.sizes.width;
    float *state = at(x, i, width), *other = at(seen, i, width);
    read_row(m.embed, row.id, state);
    kernels.norm(state, state, width, m.sizes.eps);
    if (!m.modern) return;
    if (row.before >= 0) {
        float gate = m.smear_by * sigmoid(dot(m.smear.data(), state, int(m.smear.size())));
        read_row(m.embed, row.before, other);
        kernels.norm(other, other, width, m.sizes.eps);
        kernels.add_scaled(state, gate, other, width);
    }
    std::memcpy(at(x0, i, width), state, width * sizeof(float));
    if (!m.pairs) return;
    int64_t size = int64_t(m.pairs.rows), hash = ((int64_t(row.before) + 1) * 36313 ^ int64_t(row.id) * 27191) % size;
    read_row(m.pairs, size_t(hash), at(pairs, i, width));
}

void Decoder::mix(int i, const Layer& layer) {
    int width = m.sizes.width;
    float* state = at(x, i, width);
    if (m.modern) {
        kernels.scale(state, layer.resid, width);
        kernels.add_scaled(state, layer.first, at(x0, i, width), width);
        if (m.pairs) kernels.add_scaled(state, layer.pairs, at(pairs, i, width), width);
    }
    kernels.norm(state, at(seen, i, width), width, m.sizes.eps);
}

// One head of a row: its query is turned, normalised and scaled, its key or value goes into the cache.
void Decoder::place(int i, int l, int head) {
    const Sizes& s = m.sizes;
    const Row& row = rows[i];
    int d = s.head_dim, half = d / 2, query = s.heads, key = query + s.kv_heads;
    const float *x = at(qkv, i, qkv_width) + head * d, *c = cos.data() + size_t(row.position) * half;
    float* v = at(q, i * (key + s.kv_heads) + head, dim);  // filled up with zeros to whole vectors
    std::memcpy(v, x, d * sizeof(float));
    std::memset(v + d, 0, (dim - d) * sizeof(float));
    if (head < key) kernels.turn(v, c, sin.data() + (c - cos.data()), d, s.eps);
    if (head < query) {
        kernels.scale(v, s.scale, dim);
    } else if (head < key) {
        kernels.keep_key(v, keys(slots[row.slot], l, head - query), s.half, dim, row.position);
    } else {
        const Layer& layer = m.layers[l];
        int g = head - key;
        if (layer.values) {
            int channels = int(layer.gate.size()) / s.kv_heads;
            float gate = 3 * sigmoid(dot(layer.gate.data() + g * channels, at(seen, i, s.width), channels));
            const Table& table = layer.values;
            size_t from = size_t(row.id) * table.width + size_t(g) * d;  // this head's part of the row
            for (int j = 0; j < d; j++)
                v[j] += gate * (table.half ? widen(static_cast<const uint16_t*>(table.data)[from + j])
                                           : static_cast<const float*>(table.data)[from + j]);
        }
        kernels.keep_value(v, values(slots[row.slot], l, g), s.half, dim, row.position);
    }
}

// i: a head of a row; next: the one that this thread looks at afterwards, or -1; out: the thread's scratch.
void Decoder::attend(int i, int l, int next, float* out) {
    const Sizes& s = m.sizes;
    int r = i / s.heads, head = i % s.heads, shared = s.heads / s.kv_heads, d = s.head_dim;
    const Row& row = rows[r];
    uint8_t *own = keys(slots[row.slot], l, head / shared), *other = nullptr;
    if (next >= 0) other = keys(slots[rows[next / s.heads].slot], l, next % s.heads / shared);
    int begin = std::max(0, row.position - m.layers[l].window);
    kernels.attend(at(q, r * (s.heads + 2 * s.kv_heads) + head, dim), own, values(slots[row.slot], l, head / shared),
                   s.half, dim, begin, row.position + 1, out, out + dim, other == own ? nullptr : other);
    kernels.take(m.layers[l].out->weights, out, r, n, head * d, (head + 1) * d, inputs.get());
}

}  // namespace nanochat
