// The Python module nanochat._native: computing tokens on a CPU, and what takes long in a training.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "decoder.hpp"
#include "head.hpp"
#include "product.hpp"

namespace nb = nanobind;
using namespace nanochat;
using namespace nb::literals;
using Array = nb::ndarray<nb::device::cpu, nb::c_contig>;

namespace {

bool is(const Array& a, nb::dlpack::dtype_code code, int bits) {
    return a.dtype().code == uint8_t(code) && a.dtype().bits == bits;
}
bool is_full(const Array& a) { return is(a, nb::dlpack::dtype_code::Float, 32); }
bool is_half(const Array& a) { return is(a, nb::dlpack::dtype_code::Bfloat, 16); }

// Seconds of a product of six rows with bf16 weights, in the first cache: what many rows cost. The best of some tries,
// which takes less than a millisecond in all.
double cost(const Kernels& k) {
    constexpr int INPUTS = 128, ROWS = 6;
    Matrix w(Kind::half, k.panel, INPUTS, k.panel);
    std::vector<float> x(INPUTS, 1), inputs(INPUTS * ROWS), y(k.panel * ROWS);
    for (int row = 0; row < ROWS; row++) k.take(w.weights, x.data(), row, ROWS, 0, INPUTS, inputs.data());
    double best = 1;
    for (int i = 0; i < 100; i++) {
        auto began = std::chrono::steady_clock::now();
        for (int j = 0; j < 4; j++) k.product(w.weights, inputs.data(), ROWS, y.data(), k.panel, 0, 1);
        std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        best = std::min(best, took.count() / k.panel);
    }
    return best;
}

// The best first. The bf16 products of AVX512-BF16 are twice as fast as its float32 ones on AMD's processors, and half
// as fast on Intel's: so this is measured. Both are right, but not equal in their last bits.
std::vector<const Kernels*> find_usable() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && __builtin_cpu_supports("avx512bf16") && kernels_avx512_bf16()) found.push_back(kernels_avx512_bf16());
    if (avx512 && kernels_avx512()) found.push_back(kernels_avx512());
    if (avx2 && kernels_avx2()) found.push_back(kernels_avx2());
    if (found.size() == 3 && cost(*found[1]) < cost(*found[0])) std::swap(found[0], found[1]);
#endif
    return found;
}

const std::vector<const Kernels*>& usable() {
    static const std::vector<const Kernels*> found = find_usable();
    return found;
}

const Kernels& kernels_of(const std::string& level) {
    for (const Kernels* k : usable())
        if (level == k->name) return *k;
    throw nb::value_error(("no kernels for " + level + " here").c_str());
}

// A matrix of the rows of several (n, inputs), of one type. scales: of int8 ones, (n) each.
std::shared_ptr<Matrix> matrix_of(const std::string& level, const std::vector<Array>& parts,
                                  const std::vector<Array>& scales) {
    if (parts.empty()) throw nb::value_error("a matrix of nothing");
    const Array& one = parts[0];
    bool eight = is(one, nb::dlpack::dtype_code::Int, 8);
    if (!eight && !is_full(one) && !is_half(one)) throw nb::type_error("weights must be float32, bfloat16 or int8");
    if (scales.size() != (eight ? parts.size() : 0))
        throw nb::value_error("int8 weights need scales, others have none");
    int outputs = 0;
    for (size_t i = 0; i < parts.size(); i++) {
        const Array& part = parts[i];
        if (part.ndim() != 2 || part.shape(1) != one.shape(1) || part.dtype() != one.dtype() || part.shape(1) % 2)
            throw nb::value_error("matrices do not fit together");
        if (eight && (!is_full(scales[i]) || scales[i].ndim() != 1 || scales[i].shape(0) != part.shape(0)))
            throw nb::value_error("a scale is needed for every output");
        outputs += int(part.shape(0));
    }
    auto kind = eight ? Kind::eight : is_half(one) ? Kind::half : Kind::full;
    auto made = std::make_shared<Matrix>(kind, outputs, int(one.shape(1)), kernels_of(level).panel);
    int first = 0;
    for (size_t i = 0; i < parts.size(); i++) {
        int n = int(parts[i].shape(0));
        if (kind == Kind::eight) {
            made->pack(first, n, static_cast<const int8_t*>(parts[i].data()));
            std::memcpy(made->scale.get() + first, scales[i].data(), n * sizeof(float));
        } else if (kind == Kind::half) {
            made->pack(first, n, static_cast<const uint16_t*>(parts[i].data()));
        } else {
            made->pack(first, n, static_cast<const float*>(parts[i].data()));
        }
        first += n;
    }
    return made;
}

Table table_of(const Array& rows, int width) {
    if (rows.ndim() != 2 || int(rows.shape(1)) != width || (!is_full(rows) && !is_half(rows)))
        throw nb::value_error("a table must be (rows, width), in float32 or bfloat16");
    return {rows.data(), std::make_shared<Array>(rows), is_half(rows), width, rows.shape(0)};
}

void require(const Matrix& w, int outputs, int inputs) {
    if (w.outputs != outputs || w.weights.inputs != inputs) throw nb::value_error("a matrix has another shape");
}

void step(Decoder& decoder, const std::vector<std::tuple<int, int, std::vector<int>, int, int>>& chunks,
          nb::ndarray<float, nb::device::cpu, nb::c_contig> logits) {
    std::vector<Row> rows;
    size_t logits_wanted = 0;
    const Model& m = decoder.model();
    for (auto& [slot, start, ids, before, wanted] : chunks) {
        if (slot < 0 || start < 0 || ids.empty() || before < -1 || before >= m.sizes.vocab ||
            start + ids.size() > decoder.positions())
            throw nb::value_error("a chunk is outside the cache");
        if (wanted < 0 || size_t(wanted) > ids.size())
            throw nb::value_error("a chunk has fewer logits than are wanted of it");
        int first = start + int(ids.size()) - wanted;  // whose logits are
        int previous = before, position = start;
        for (int id : ids) {
            if (id < 0 || id >= m.sizes.vocab) throw nb::value_error("an id is outside the vocabulary");
            rows.push_back({slot, position, id, previous, position >= first});
            position++;
            previous = id;
        }
        logits_wanted += wanted;
    }
    if (logits.ndim() != 2 || logits.shape(0) < logits_wanted || int(logits.shape(1)) != m.sizes.vocab)
        throw nb::value_error("the logits do not fit");
    nb::gil_scoped_release release;
    decoder.step(rows, logits.data());
}

void copy(Decoder& decoder, int source, const std::vector<int>& targets, int length) {
    bool inside = source >= 0 && length >= 0 && size_t(length) <= decoder.positions();
    for (int target : targets) inside = inside && target >= 0;
    if (!inside) throw nb::value_error("a copy is outside the cache");
    nb::gil_scoped_release release;
    decoder.copy(source, targets, length);
}

using Numbers = nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig>;

double head_loss(Head& head, Numbers h, Numbers w, nb::ndarray<int64_t, nb::ndim<1>, nb::device::cpu, nb::c_contig> targets,
                 float cap, Numbers by_h, Numbers by_w) {
    size_t n = h.shape(0), width = h.shape(1), vocab = w.shape(0);
    auto same = [](const Numbers& a, const Numbers& b) { return a.shape(0) == b.shape(0) && a.shape(1) == b.shape(1); };
    if (w.shape(1) != width || targets.shape(0) != n || !same(h, by_h) || !same(w, by_w))
        throw nb::value_error("the shapes do not fit");
    for (size_t i = 0; i < n; i++)
        if (targets.data()[i] >= int64_t(vocab)) throw nb::index_error("a target is outside the vocabulary");
    nb::gil_scoped_release release;
    return head.loss(h.data(), n, width, w.data(), vocab, targets.data(), cap, by_h.data(), by_w.data());
}

using Heads3 = nb::ndarray<float, nb::ndim<3>, nb::device::cpu, nb::c_contig>;

Heads heads_of(const Heads3& q, const Heads3& k, const Heads3& v, const std::vector<const Heads3*>& others,
               const Numbers& logs, int window, float scale) {
    auto same = [&q](const Heads3& a) {
        return a.shape(0) == q.shape(0) && a.shape(1) == q.shape(1) && a.shape(2) == q.shape(2);
    };
    bool fit = same(k) && same(v) && logs.shape(0) == q.shape(0) && logs.shape(1) == q.shape(1);
    for (const Heads3* other : others) fit = fit && same(*other);
    if (!fit || window < 0) throw nb::value_error("the shapes do not fit");
    return {q.data(), k.data(), v.data(), q.shape(0), q.shape(1), q.shape(2), size_t(window), scale};
}

void attend(Attention& attention, Heads3 q, Heads3 k, Heads3 v, int window, float scale, Heads3 out, Numbers logs) {
    Heads heads = heads_of(q, k, v, {&out}, logs, window, scale);
    nb::gil_scoped_release release;
    attention.forward(heads, out.data(), logs.data());
}

void attend_back(Attention& attention, Heads3 q, Heads3 k, Heads3 v, int window, float scale, Numbers logs, Heads3 grad,
                 Heads3 by_q, Heads3 by_k, Heads3 by_v) {
    Heads heads = heads_of(q, k, v, {&grad, &by_q, &by_k, &by_v}, logs, window, scale);
    nb::gil_scoped_release release;
    attention.backward(heads, logs.data(), grad.data(), by_q.data(), by_k.data(), by_v.data());
}

void multiply(Product& product, Numbers a, Numbers b, bool turned, Numbers out) {
    size_t n = a.shape(0), inputs = a.shape(1), m = b.shape(!turned);
    if (b.shape(turned) != inputs || out.shape(0) != n || out.shape(1) != m)
        throw nb::value_error("the shapes do not fit");
    nb::gil_scoped_release release;
    product.multiply(a.data(), b.data(), turned, n, inputs, m, out.data());
}

// Bytes per second at which memory is read, by several threads, each its own part; the best of some seconds' tries.
double read_speed(int megabytes, int threads) {
    auto& levels = usable();
    if (levels.empty()) throw nb::value_error("no kernels here");
    nb::gil_scoped_release release;
    size_t part = size_t(megabytes) * (1 << 20) / threads / 256 * 256;
    auto bytes = buffer<uint8_t>(part * threads);
    std::memset(bytes.get(), 1, part * threads);
    Pool pool(threads, 1);
    std::vector<uint64_t> sums(threads * 8);
    double best = 0;
    for (int i = 0; i < 10; i++) {
        auto began = std::chrono::steady_clock::now();
        std::function<void(Pool::Turn&)> read = [&](Pool::Turn& turn) {
            turn.share(threads, [&](int t) { sums[t * 8] = levels[0]->sum(bytes.get() + part * t, part); });
        };
        pool.run(read);
        std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        pool.settle();
        best = std::max(best, double(part) * threads / took.count());
    }
    return best;
}

}  // namespace

namespace nanochat {
void bind_choose(nb::module_& module);  // in choose_binding.cpp
}

NB_MODULE(_native, m) {
    nanobind::set_leak_warnings(false);  // commands end without looking for garbage
    nanochat::bind_choose(m);
    m.def(
        "levels",
        [] {
            std::vector<std::string> names;
            for (const Kernels* k : usable()) names.push_back(k->name);
            return names;
        },
        "Names of the sets of instructions that this build and this processor have, the best first.");
    m.def("read_speed", read_speed, "megabytes"_a, "threads"_a, "Bytes per second at which memory is read.");

    nb::class_<Matrix>(m, "Matrix")
        .def_ro("outputs", &Matrix::outputs)
        .def_ro("bytes", &Matrix::bytes)
        .def_prop_ro("inputs", [](const Matrix& w) { return w.weights.inputs; });
    m.def("pack", matrix_of, "level"_a, "parts"_a, "scales"_a = std::vector<Array>());
    m.def(
        "product",
        [](const std::string& level, const Matrix& w, nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig> x,
           nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig> y) {
            const Kernels& k = kernels_of(level);
            int rows = int(x.shape(0)), room = w.panels() * w.panel;
            if (int(x.shape(1)) != w.weights.inputs || y.shape(0) != x.shape(0) || int(y.shape(1)) != w.outputs ||
                w.panel != k.panel)
                throw nb::value_error("the shapes do not fit");
            auto out = buffer<float>(size_t(rows) * room);
            auto inputs = buffer<float>(size_t(rows) * w.weights.inputs);
            for (int r = 0; r < rows; r++)
                k.take(w.weights, x.data() + size_t(r) * w.weights.inputs, r, rows, 0, w.weights.inputs, inputs.get());
            k.product(w.weights, inputs.get(), rows, out.get(), room, 0, w.panels());
            for (int r = 0; r < rows; r++)
                std::memcpy(y.data() + size_t(r) * w.outputs, out.get() + size_t(r) * room, w.outputs * 4);
        },
        "level"_a, "matrix"_a, "x"_a, "y"_a,
        "y (rows, outputs) = x (rows, inputs) times a matrix, on one thread: for tests.");

    nb::class_<Head>(m, "Head")
        .def(
            "__init__",
            [](Head* self, const std::string& level, int threads) { new (self) Head(kernels_of(level), threads); },
            "level"_a, "threads"_a)
        .def("loss", head_loss, "h"_a, "w"_a, "targets"_a, "cap"_a, "by_h"_a.noconvert(), "by_w"_a.noconvert(),
             "The sum of the cross-entropies; its gradients are written to by_h and by_w.");

    nb::class_<Attention>(m, "Attention")
        .def(
            "__init__",
            [](Attention* self, const std::string& level, int threads) {
                new (self) Attention(kernels_of(level), threads);
            },
            "level"_a, "threads"_a)
        .def("forward", attend, "q"_a, "k"_a, "v"_a, "window"_a, "scale"_a,
             "out"_a.noconvert(), "logs"_a.noconvert())
        .def("backward", attend_back, "q"_a, "k"_a, "v"_a, "window"_a, "scale"_a, "logs"_a, "grad"_a,
             "by_q"_a.noconvert(), "by_k"_a.noconvert(), "by_v"_a.noconvert());

    nb::class_<Product>(m, "Product")
        .def(
            "__init__",
            [](Product* self, const std::string& level, int threads) { new (self) Product(kernels_of(level), threads); },
            "level"_a, "threads"_a)
        .def("multiply", multiply, "a"_a, "b"_a, "turned"_a, "out"_a.noconvert());

    nb::class_<Model>(m, "Model")
        .def(
            "__init__",
            [](Model* self, int depth, int width, int heads, int kv_heads, int vocab, bool half, float eps,
               float softcap, float scale, const Array& embed, std::shared_ptr<Matrix> head) {
                new (self) Model();
                self->sizes = {depth, width, heads, kv_heads, vocab, width / heads, half, eps, softcap, scale};
                self->embed = table_of(embed, width);
                if (int(self->embed.rows) != vocab) throw nb::value_error("the embedding has another number of rows");
                require(*head, vocab, width);
                self->head = std::move(head);
            },
            "depth"_a, "width"_a, "heads"_a, "kv_heads"_a, "vocab"_a, "half"_a, "eps"_a, "softcap"_a, "scale"_a,
            "embed"_a, "head"_a)
        .def(
            "add_layer",
            [](Model& self, std::shared_ptr<Matrix> qkv, std::shared_ptr<Matrix> out, std::shared_ptr<Matrix> up,
               std::shared_ptr<Matrix> down, int window, std::tuple<float, float, float> by, nb::object values,
               std::vector<float> gate) {
                const Sizes& s = self.sizes;
                int kv_width = s.kv_heads * s.head_dim;
                require(*qkv, s.width + 2 * kv_width, s.width);
                require(*out, s.width, s.width);
                require(*up, 4 * s.width, s.width);
                require(*down, s.width, 4 * s.width);
                Layer layer{std::move(qkv), std::move(out), std::move(up), std::move(down), window, {},
                            std::move(gate)};
                std::tie(layer.resid, layer.first, layer.pairs) = by;
                if (!values.is_none()) {
                    layer.values = table_of(nb::cast<Array>(values), kv_width);
                    if (int(layer.values.rows) != s.vocab || layer.gate.empty() || layer.gate.size() % s.kv_heads)
                        throw nb::value_error("the value embedding or its gate does not fit");
                }
                self.layers.push_back(std::move(layer));
            },
            "qkv"_a, "out"_a, "up"_a, "down"_a, "window"_a, "by"_a, "values"_a.none(), "gate"_a)
        .def(
            "make_modern",
            [](Model& self, std::vector<float> smear, float smear_by, float backout, nb::object pairs) {
                self.modern = true;
                if (int(smear.size()) > self.sizes.width) throw nb::value_error("the smear gate is too wide");
                self.smear = std::move(smear);
                self.smear_by = smear_by;
                self.backout = backout;
                if (!pairs.is_none()) self.pairs = table_of(nb::cast<Array>(pairs), self.sizes.width);
            },
            "smear"_a, "smear_by"_a, "backout"_a, "pairs"_a.none());

    auto decoder = nb::class_<Decoder>(m, "Decoder");
    decoder.attr("ROWS") = Decoder::ROWS;
    decoder
        .def(
            "__init__",
            [](Decoder* self, const Model& model, const std::string& level, int threads) {
                const Kernels& k = kernels_of(level);
                if (int(model.layers.size()) != model.sizes.depth) throw nb::value_error("the model is incomplete");
                new (self) Decoder(model, k, threads);
            },
            "model"_a, "level"_a, "threads"_a)
        .def("step", step, "chunks"_a, "logits"_a, "Chunks are (slot, start, ids, before, wanted), as runner.py's.")
        .def(
            "set_rope",
            [](Decoder& self, nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig> cos,
               nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig> sin) {
                if (int(cos.shape(1)) != self.model().sizes.head_dim / 2 || cos.size() != sin.size())
                    throw nb::value_error("the rotary tables do not fit");
                self.set_rope({cos.data(), cos.data() + cos.size()}, {sin.data(), sin.data() + sin.size()});
            },
            "cos"_a, "sin"_a)
        .def("copy", copy, "source"_a, "targets"_a, "length"_a);
}
