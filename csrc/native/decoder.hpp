// A model's forward pass over rows: tokens of any sequences, each at its position in its sequence's slot.
#pragma once

#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#include "kernels.hpp"
#include "matrix.hpp"
#include "pool.hpp"

namespace nanochat {

struct Sizes {
    int depth, width, heads, kv_heads, vocab, head_dim;
    bool half;                  // keys and values are kept in float16
    float eps, softcap, scale;  // scale: of the scores
};

// Rows of a table of token vectors, in float32 or bf16.
struct Table {
    const void* data = nullptr;
    std::shared_ptr<void> owner;  // of the memory
    bool half = false;
    int width = 0;
    size_t rows = 0;
    explicit operator bool() const { return data; }
};

struct Layer {
    std::shared_ptr<Matrix> qkv, out, up, down;  // q, k and v are one matrix
    int window;                                  // positions before its own that a row sees
    Table values;                                // token vectors that are added to v ...
    std::vector<float> gate;                     // ... by this gate (kv_heads, channels)
    float resid = 1, first = 0, pairs = 0;       // x = resid * x + first * x0 + pairs * (token pair's vector)
};

struct Model {
    Sizes sizes;
    Table embed, pairs;  // pairs: empty if there are none
    std::shared_ptr<Matrix> head;
    std::vector<Layer> layers;
    bool modern = false;
    std::vector<float> smear;  // the gate's weights
    float smear_by = 0, backout = 0;
};

struct Row {
    int slot, position, id, before;
    bool wanted;
};

class Decoder {
public:
    static constexpr int ROWS = 128;  // at once

    Decoder(Model model, const Kernels& kernels, int threads);

    // Logits (wanted rows, vocab) of all rows. The rows of a slot come in order. Memory that is missing is noticed
    // before the work begins: bad_alloc, and the slots hold what they held. One thread at a time, or a runtime_error.
    void step(const std::vector<Row>& rows, float* logits);
    void copy(int source, const std::vector<int>& targets, int length);
    const Model& model() const { return m; }

    // Rotary tables (positions, head_dim / 2); a sequence may have so many positions.
    void set_rope(std::vector<float> cosines, std::vector<float> sines) {
        Hold hold(holder);
        cos = std::move(cosines);
        sin = std::move(sines);
    }
    size_t positions() const { return cos.size() / (m.sizes.head_dim / 2); }

    const Kernels& kernels;

private:
    // The right to change anything here.
    class Hold {
    public:
        explicit Hold(std::atomic<long>& holder) : holder(holder) {
            long before = holder, own = process() + 1;  // a forked child's parent holds nothing of it
            if (before == own || !holder.compare_exchange_strong(before, own))
                throw std::runtime_error("two threads use one runner at once: give each an engine of its own");
        }
        ~Hold() { holder = 0; }

    private:
        std::atomic<long>& holder;
    };

    // Keys and values of one sequence: (layer, kv head, positions), with room for `capacity` positions.
    struct Slot {
        int capacity = 0;
        Buffer<uint8_t> keys, values;
    };

    void reserve(int slot, int positions);
    void reserve_scratch(int positions);
    void copy(Slot& source, Slot& target, int length);
    size_t scratch_width(int positions) const { return size_t(dim) + positions + 9 * LANES; }  // of a thread
    size_t row_bytes() const;                                                                  // of a key or a value
    size_t offset(const Slot& slot, int layer, int head) const;
    uint8_t* keys(Slot& slot, int layer, int head) const { return slot.keys.get() + offset(slot, layer, head); }
    uint8_t* values(Slot& slot, int layer, int head) const { return slot.values.get() + offset(slot, layer, head); }

    void work(Pool::Turn& turn) noexcept;
    void embed(int i);
    void mix(int i, const Layer& layer);
    void place(int i, int l, int head);
    void attend(int i, int l, int next, float* out);
    template <typename What>
    void in_runs(Pool::Turn& turn, int count, What what);
    template <typename After>
    void multiply(Pool::Turn& turn, const Matrix& w, const Buffer<float>& inputs, int rows, float* y, int ldy,
                  After after);

    float* at(Buffer<float>& b, int i, int width) { return b.get() + size_t(i) * width; }

    Model m;
    std::vector<float> cos, sin;
    int qkv_width, hidden;  // row lengths of the buffers: whole panels
    int dim;                // of a head, rounded up to whole vectors
    std::vector<Slot> slots;
    Buffer<float> x, x0, middle, pairs, seen, qkv, q, y, h, raw;
    Buffer<float> inputs, inner;  // of the next product; inner: of `down`
    Buffer<float> scratch;        // of each thread: a head's output, and scores of `scored` positions
    int scored = 0;
    std::atomic<long> holder{0};

    std::function<void(Pool::Turn&)> job = [this](Pool::Turn& turn) { work(turn); };

    // Of the present step.
    const Row* rows = nullptr;
    int n = 0;
    std::vector<int> wanted;
    float* logits = nullptr;

    Pool pool;  // last, so that its threads end before what they read
};

}  // namespace nanochat
