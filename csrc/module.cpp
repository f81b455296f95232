// Python bindings of the native tokenizer. Threads read Python's strings in place, without the GIL: strings are
// immutable, and a tuple of our own keeps them alive until the threads are done.
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
#include "text.hpp"

namespace nb = nanobind;

namespace nanochat {
namespace {

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
    threads.reserve(count);
    try {
        while (threads.size() + 1 < count) threads.emplace_back(guarded, threads.size() + 1);
    } catch (const std::exception&) {  // no more threads available: this one does their work
    }
    guarded(0);
    for (size_t worker = threads.size() + 1; worker < count; ++worker) guarded(worker);
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors)
        if (error) std::rethrow_exception(error);
}

// Counts the chunks of documents, then learns merges. Without digits every document is one chunk.
class Trainer {
public:
    Trainer(int max_digits, size_t threads) : max_digits_(max_digits), tables_(std::max<size_t>(1, threads)) {
        if (max_digits) Splitter{max_digits};  // checks it
    }
    Trainer(const Trainer&) = delete;

    // Counts documents. After an error the counts are invalid.
    void add(const nb::list& documents) {
        const nb::tuple held(documents);  // other Python threads may empty the list
        std::vector<Text> pieces;
        for (nb::handle item : held) {
            const Text text = text_of(item, documents_++);
            if (max_digits_)
                add_pieces(text, pieces);
            else if (text.end)
                pieces.push_back(text);
        }
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(lock_);
        std::atomic<size_t> next{0};
        on_threads(std::min(tables_.size(), std::max<size_t>(1, pieces.size())), [&](size_t worker) {
            std::vector<uint8_t> room;
            ChunkTable& table = tables_[worker];
            const Splitter splitter(max_digits_ ? max_digits_ : 1);
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

    // Each distinct chunk and how often it occurs.
    std::vector<std::pair<nb::bytes, uint64_t>> counts() {
        std::vector<std::pair<std::string, uint64_t>> found;
        {
            nb::gil_scoped_release unlocked;
            const std::lock_guard<std::mutex> alone(lock_);
            gather().each([&](const Key& key, uint64_t count) {
                found.emplace_back(std::string(reinterpret_cast<const char*>(key.bytes()), key.size()), count);
            });
        }
        std::vector<std::pair<nb::bytes, uint64_t>> made;
        for (const auto& [chunk, count] : found) made.emplace_back(nb::bytes(chunk.data(), chunk.size()), count);
        return made;
    }

    // Ends the counting and prepares to learn at most `merges` merges.
    void prepare(size_t merges) {
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(lock_);
        learner_.emplace(gather(), merges);
    }

    // Learns up to `count` further merges and returns how many there were.
    size_t learn(size_t count) {
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(lock_);
        return learner_ ? learner_->learn(count) : 0;
    }

    std::vector<Learner::Merge> merges() {
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(lock_);
        return learner_ ? learner_->merges() : std::vector<Learner::Merge>();
    }

private:
    int max_digits_;
    std::vector<ChunkTable> tables_;  // one a thread
    std::optional<Learner> learner_;
    size_t documents_ = 0;
    std::mutex lock_;  // the GIL is not held while the tables and the learner work

    // Merges all threads' tables into one, pairwise as in a knock-out.
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
        const nb::tuple held(documents);
        std::vector<Text> texts;
        for (nb::handle item : held) texts.push_back(text_of(item, texts.size()));
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

// The chunks of a text, as the byte offset of each one's end.
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
    nb::set_leak_warnings(false);  // commands end without looking for garbage
    nb::exception<SurrogateError>(module, "SurrogateError", PyExc_ValueError);
    module.attr("UNICODE_VERSION") = kUnicodeVersion;
    module.def("split", &split, nb::arg("text"), nb::arg("digits"));
    nb::class_<Trainer>(module, "Trainer")
        .def(nb::init<int, size_t>(), nb::arg("digits"), nb::arg("threads"))
        .def("add", &Trainer::add, nb::arg("documents"))
        .def("counts", &Trainer::counts)
        .def("prepare", &Trainer::prepare, nb::arg("merges"))
        .def("learn", &Trainer::learn, nb::arg("count"))
        .def("merges", &Trainer::merges);
    nb::class_<TextEncoder>(module, "Encoder")
        .def(nb::init<std::vector<nb::bytes>, int>(), nb::arg("tokens"), nb::arg("digits"))
        .def("encode", &TextEncoder::encode, nb::arg("text"))
        .def("encode_arrays", &TextEncoder::encode_arrays, nb::arg("documents"), nb::arg("threads"));
}

}  // namespace nanochat
