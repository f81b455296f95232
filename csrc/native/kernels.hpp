// The arithmetic of a step, for one set of the processor's instructions.
//
// Every sum has one order, whatever else is computed beside it: that of the inputs, in 16 lanes where a vector is
// summed. So a row's numbers do not depend on the other rows, on the number of threads or on how a prompt was cut.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nanochat {

constexpr int LANES = 16;  // positions of the cache that are scored together

enum class Kind { full, half, eight };  // float32, bfloat16, int8 with a scale per output

struct Weights {  // of a Matrix
    Kind kind;
    int inputs;  // even
    size_t panel_bytes;
    const uint8_t* data;
    const float* scale;
};

// A matrix that is read in tiles of `tall` rows: input i of row r of a tile is at r * row + i / run * hop + i % run * step.
struct Factor {
    const float* data;
    size_t tile, row;  // from one tile to the next, from one row to the next
    int run;           // inputs; the number of inputs is a multiple of it
    size_t step, hop;
};

// Which keys queries see: their own and `window` before it. Positions of the first row and column.
struct Seen {
    int query, key, window;
};

struct Kernels {
    const char* name;
    int panel;  // outputs in a panel of a Matrix

    // Lay out columns [from, to) of one row's inputs x, all of them even numbers, for a product of `rows` rows with w.
    void (*take)(const Weights& w, const float* x, int row, int rows, int from, int to, void* inputs);

    // y (rows, ldy) = these inputs times the panels [first, last) of w; the other columns of y stay. y has room for
    // whole panels.
    void (*product)(const Weights& w, const void* inputs, int rows, float* y, int ldy, int first, int last);

    // y = x / sqrt(mean(x^2) + eps); n: a multiple of 16, or the rest is taken one by one.
    void (*norm)(const float* x, float* y, int n, float eps);

    // Turn a head's vector by the angles (d / 2) of its position, and normalise it. Here d is the head's own size,
    // elsewhere rounded up to a multiple of 16.
    void (*turn)(float* x, const float* cos, const float* sin, int d, float eps);

    // Keep a key or a value (d) at a position of the cache, laid out as for `attend`. half: in float16, not float32.
    void (*keep_key)(const float* x, void* keys, bool half, int d, int position);
    void (*keep_value)(const float* x, void* values, bool half, int d, int position);

    // out (d) = softmax(q K) V over the positions [begin, end) of a slot. q (d) is scaled. keys: blocks of 16
    // positions, (d, 16); values: (positions, d). scores: end rounded up to 64, + 64. next:
    // keys that are read after these, or null; so many bytes of them are fetched as are here.
    void (*attend)(const float* q, const void* keys, const void* values, bool half, int d, int begin, int end,
                   float* out, float* scores, const void* next);

    void (*relu_squared)(float* x, int n);
    void (*add)(float* x, const float* y, int n);                   // x += y
    void (*add_scaled)(float* x, float by, const float* y, int n);  // x += by * y
    void (*scale)(float* x, float by, int n);
    void (*softcap)(const float* x, float* y, int n, float cap);  // y = cap * tanh(x / cap)
    uint64_t (*sum)(const uint8_t* bytes, size_t n);              // reads n bytes, a multiple of 256

    // For training. A strip is (inputs, columns) of a matrix, one input's columns after another's.
    int columns, tall;  // tall: rows of a tile

    // y (rows, ldy) = x times a strip, or that is added to y.
    void (*strip)(const Factor& x, const float* strip, int rows, int inputs, float* y, size_t ldy, bool adds);

    // Lay out x as factors are read: (inputs, unit) for each `unit` of its rows, which is `columns` for strips and
    // `tall` for tiles. Zeros follow the last row. Input i of row r is at r * ld + i, or at i * ld + r if `turned`.
    void (*bands)(const float* x, size_t ld, bool turned, int rows, int inputs, bool strips, float* out);

    // Logits (rows, columns) become the slopes e^z * dz/dlogit of z = cap * tanh(logit / cap), 0 from `count` columns
    // on; e^z is added to sums (rows, 16). A logit of minus infinity has slope 0 and adds e^-cap.
    void (*slopes)(float* logits, int rows, int count, float cap, float* sums);

    // Scores (strips, rows, columns) become e^(scale * score - most), 0 where a key is not seen; most and sums (rows).
    void (*soften)(float* scores, int rows, int strips, const Seen& seen, float scale, float* most, float* sums);

    // Scores, whose sums of e^(scale * score) have these logarithms, become the softmax, and the gradient by the
    // softmax becomes that by the scores.
    void (*soft_slopes)(float* scores, float* slopes, int rows, int strips, const Seen& seen, float scale,
                        const float* logs);
};

// Null where the compiler could not make them.
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512_bf16();

}  // namespace nanochat
