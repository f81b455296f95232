// Python's door to the native tokenizer. Threads read Python's strings in place, without the GIL: a string never
// changes, and the batch that holds it is kept until the threads are done.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "chunks.hpp"
#include "encoder.hpp"
#include "learner.hpp"
#include "split.hpp"

namespace nb = nanobind;

namespace nanochat {
namespace {

// A lone half of a surrogate pair is not text; `document` says where it is.
struct SurrogateError : std::runtime_error {
    explicit SurrogateError(size_t document)
        : std::runtime_error("document " + std::to_string(document) + " holds half of a surrogate pair") {}
};

// A Python string, or a piece of one.
struct Text {
    const void* data;
    int kind;  // bytes per code point
    bool ascii;
    size_t begin, end;  // code points
    size_t document;

    uint32_t operator[](size_t i) const {
        if (kind == 1) return static_cast<const uint8_t*>(data)[i];
        return kind == 2 ? static_cast<const uint16_t*>(data)[i] : static_cast<const uint32_t*>(data)[i];
    }

    // The UTF-8 bytes: the string's own when it is ASCII, else written to `room`.
    std::pair<const uint8_t*, size_t> utf8(std::vector<uint8_t>& room) const {
        if (ascii) return {static_cast<const uint8_t*>(data) + begin, end - begin};
        const size_t most = (end - begin) * (kind == 1 ? 2 : kind == 2 ? 3 : 4);
        if (room.size() < most) room.resize(most);
        const size_t size = kind == 1   ? write_utf8(static_cast<const uint8_t*>(data), room.data())
                            : kind == 2 ? write_utf8(static_cast<const uint16_t*>(data), room.data())
                                        : write_utf8(static_cast<const uint32_t*>(data), room.data());
        return {room.data(), size};
    }

    template <class Unit>
    size_t write_utf8(const Unit* points, uint8_t* to) const {
        const uint8_t* const start = to;
        for (size_t i = begin; i < end; ++i) {
            const uint32_t c = points[i];
            const auto put = [&](uint32_t lead, int shift) {
                *to++ = static_cast<uint8_t>(lead | c >> shift);
                while (shift) *to++ = static_cast<uint8_t>(0x80 | (c >> (shift -= 6) & 0x3F));
            };
            if (c < 0x80) [[likely]] {
                *to++ = static_cast<uint8_t>(c);
            } else if (c < 0x800) {
                put(0xC0, 6);
            } else if (c < 0x10000) {
                if (c >= 0xD800 && c < 0xE000) throw SurrogateError(document);
                put(0xE0, 12);
            } else {
                put(0xF0, 18);
            }
        }
        return static_cast<size_t>(to - start);
    }
};

Text text_of(nb::handle item, size_t document) {
    if (!PyUnicode_Check(item.ptr()))
        throw nb::type_error(
            ("document " + std::to_string(document) + " is " + Py_TYPE(item.ptr())->tp_name + ", not text").c_str());
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(item.ptr()) < 0) throw nb::python_error();
#endif
    return {PyUnicode_DATA(item.ptr()), static_cast<int>(PyUnicode_KIND(item.ptr())),
            PyUnicode_IS_ASCII(item.ptr()) != 0, 0, static_cast<size_t>(PyUnicode_GET_LENGTH(item.ptr())), document};
}

constexpr size_t kPiece = 1 << 20;  // code points of one piece of work, about

// Cuts a long text into pieces. Between a letter and a space is always a cut of the split pattern, whatever follows.
void add_pieces(const Text& text, std::vector<Text>& pieces) {
    Text piece = text;
    while (piece.begin < text.end) {
        size_t cut = std::min(text.end, piece.begin + kPiece);
        while (cut < text.end && !(text[cut] == ' ' && (text[cut - 1] | 0x20) >= 'a' && (text[cut - 1] | 0x20) <= 'z'))
            ++cut;
        piece.end = cut;
        pieces.push_back(piece);
        piece.begin = cut;
    }
}

// Runs work(worker) on each of `count` threads and raises the first error.
template <class Work>
void on_threads(size_t count, Work&& work) {
    std::vector<std::exception_ptr> errors(count);
    const auto guarded = [&](size_t worker) {
        try {
            work(worker);
        } catch (...) {
            errors[worker] = std::current_exception();
        }
    };
    std::vector<std::thread> threads;
    try {
        while (threads.size() + 1 < count) threads.emplace_back(guarded, threads.size() + 1);
    } catch (const std::system_error&) {  // no more threads to be had: this one does their work
    }
    guarded(0);
    for (size_t worker = threads.size() + 1; worker < count; ++worker) guarded(worker);
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors)
        if (error) std::rethrow_exception(error);
}

// Counts the chunks of documents. Without digits every document is one chunk.
class Counter {
public:
    Counter(int max_digits, size_t threads) : max_digits_(max_digits), tables_(std::max<size_t>(1, threads)) {
        if (max_digits < 0 || max_digits > 3) throw nb::value_error("digits must be 0 to 3");
    }

    Counter(const Counter&) = delete;

    // Counts documents; on an error none of the later ones count, and the counter is spoilt.
    void add(const nb::list& documents) {
        std::vector<Text> pieces;
        for (nb::handle item : documents) {
            const Text text = text_of(item, documents_++);
            if (max_digits_)
                add_pieces(text, pieces);
            else if (text.end)
                pieces.push_back(text);
        }
        nb::gil_scoped_release unlocked;
        std::atomic<size_t> next{0};
        on_threads(std::min(tables_.size(), std::max<size_t>(1, pieces.size())), [&](size_t worker) {
            std::vector<uint8_t> room;
            ChunkTable& table = tables_[worker];
            const Splitter splitter(max_digits_);
            for (size_t i; (i = next++) < pieces.size();) {
                const auto [text, size] = pieces[i].utf8(room);
                if (!max_digits_) {
                    table.add(text, size, size);
                    continue;
                }
                const uint8_t* const end = text + size;
                splitter.split(text, size, [&](const uint8_t* chunk, size_t bytes) {
                    table.add(chunk, bytes, static_cast<size_t>(end - chunk));
                });
            }
        });
    }

    // A learner of `merges` merges at most; the counter is empty afterwards.
    Learner learner(size_t merges) {
        nb::gil_scoped_release unlocked;
        return Learner(gather(), merges);
    }

    // Each distinct chunk and how often it occurs.
    std::vector<std::pair<nb::bytes, uint64_t>> counts() {
        std::vector<std::pair<nb::bytes, uint64_t>> found;
        gather().each([&](const Key& key, uint64_t count) {
            found.emplace_back(nb::bytes(reinterpret_cast<const char*>(key.bytes()), key.size()), count);
        });
        return found;
    }

private:
    int max_digits_;
    std::vector<ChunkTable> tables_;  // one a thread
    size_t documents_ = 0;

    // All threads' tables in one, two by two as in a knock-out.
    ChunkTable& gather() {
        for (size_t step = 1; step < tables_.size(); step *= 2)
            on_threads((tables_.size() + 2 * step - 1) / (2 * step), [&](size_t worker) {
                const size_t into = worker * 2 * step;
                if (into + step < tables_.size()) tables_[into].absorb(tables_[into + step]);
            });
        return tables_[0];
    }
};

using Array = nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>>;

Array to_array(Encoder::Ids&& ids) {
    auto* kept = new Encoder::Ids(std::move(ids));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<Encoder::Ids*>(p); });
    return Array(kept->data(), {kept->size()}, owner);
}

nb::list to_list(const Encoder::Ids& ids) {
    PyObject* list = PyList_New(static_cast<Py_ssize_t>(ids.size()));
    if (!list) throw nb::python_error();
    for (size_t i = 0; i < ids.size(); ++i) {
        PyObject* id = PyLong_FromUnsignedLong(ids[i]);
        if (!id) {
            Py_DECREF(list);
            throw nb::python_error();
        }
        PyList_SET_ITEM(list, static_cast<Py_ssize_t>(i), id);
    }
    return nb::steal<nb::list>(list);
}

class TextEncoder {
public:
    TextEncoder(std::vector<nb::bytes> tokens, int max_digits) : encoder_(strings(tokens), max_digits) {}
    TextEncoder(const TextEncoder&) = delete;

    nb::list encode(nb::handle item) {
        const Text text = text_of(item, 0);
        std::vector<uint8_t> room;
        Encoder::Ids ids;
        {
            nb::gil_scoped_release unlocked;
            encode_into(text, room, ids);
        }
        return to_list(ids);
    }

    std::vector<Array> encode_arrays(const nb::list& documents, size_t threads) {
        std::vector<Text> texts;
        for (nb::handle item : documents) texts.push_back(text_of(item, texts.size()));
        std::vector<Encoder::Ids> found(texts.size());
        {
            nb::gil_scoped_release unlocked;
            std::atomic<size_t> next{0};
            on_threads(std::clamp<size_t>(threads, 1, std::max<size_t>(1, texts.size())), [&](size_t) {
                std::vector<uint8_t> room;
                for (size_t i; (i = next++) < texts.size();) encode_into(texts[i], room, found[i]);
            });
        }
        std::vector<Array> arrays;
        for (Encoder::Ids& ids : found) arrays.push_back(to_array(std::move(ids)));
        return arrays;
    }

private:
    Encoder encoder_;
    std::mutex lock_;
    std::vector<std::unique_ptr<Encoder::Recent>> idle_;

    static std::vector<std::string> strings(const std::vector<nb::bytes>& tokens) {
        std::vector<std::string> made;
        for (const nb::bytes& token : tokens) made.emplace_back(token.c_str(), token.size());
        return made;
    }

    void encode_into(const Text& text, std::vector<uint8_t>& room, Encoder::Ids& ids) {
        const auto [bytes, size] = text.utf8(room);
        std::unique_ptr<Encoder::Recent> recent = borrow();
        ids.reserve(size / 3);
        encoder_.encode(bytes, size, *recent, ids);
        const std::lock_guard<std::mutex> hold(lock_);
        idle_.push_back(std::move(recent));
    }

    std::unique_ptr<Encoder::Recent> borrow() {
        const std::lock_guard<std::mutex> hold(lock_);
        if (idle_.empty()) return std::make_unique<Encoder::Recent>();
        std::unique_ptr<Encoder::Recent> recent = std::move(idle_.back());
        idle_.pop_back();
        return recent;
    }
};

// The chunks of a text, as the byte offset behind each.
std::vector<size_t> split(nb::handle item, int max_digits) {
    std::vector<uint8_t> room;
    std::vector<size_t> ends;
    const auto [text, size] = text_of(item, 0).utf8(room);
    const uint8_t* const begin = text;
    Splitter(max_digits).split(text, size, [&](const uint8_t* chunk, size_t bytes) {
        ends.push_back(static_cast<size_t>(chunk - begin) + bytes);
    });
    return ends;
}

}  // namespace

NB_MODULE(_bpe, module) {
    nb::exception<SurrogateError>(module, "SurrogateError", PyExc_ValueError);
    module.attr("UNICODE_VERSION") = kUnicodeVersion;
    module.def("split", &split, nb::arg("text"), nb::arg("digits"));
    nb::class_<Counter>(module, "Counter")
        .def(nb::init<int, size_t>(), nb::arg("digits"), nb::arg("threads"))
        .def("add", &Counter::add, nb::arg("documents"))
        .def("counts", &Counter::counts)
        .def("learner", &Counter::learner, nb::arg("merges"));
    nb::class_<Learner>(module, "Learner")
        .def("learn", &Learner::learn, nb::arg("count"), nb::call_guard<nb::gil_scoped_release>())
        .def("merges", &Learner::merges);
    nb::class_<TextEncoder>(module, "Encoder")
        .def(nb::init<std::vector<nb::bytes>, int>(), nb::arg("tokens"), nb::arg("digits"))
        .def("encode", &TextEncoder::encode, nb::arg("text"))
        .def("encode_arrays", &TextEncoder::encode_arrays, nb::arg("documents"), nb::arg("threads"));
}

}  // namespace nanochat
