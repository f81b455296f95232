// choose(logits, draws): Python's Draw objects are read, all rows are chosen without the GIL, and the choices returned.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "choose.hpp"

namespace nb = nanobind;

namespace nanochat {
namespace {

// Names of attributes, made once.
struct Names {
    nb::handle temperature = name("temperature"), top_k = name("top_k"), top_p = name("top_p"), min_p = name("min_p"),
               repetition_penalty = name("repetition_penalty"), seen = name("seen"), penalties = name("penalties"),
               uniform = name("uniform"), logprobs = name("logprobs");
    nb::handle dtype = name("dtype"), is_cpu = name("is_cpu"), is_contiguous = name("is_contiguous"),
               shape = name("shape"), data_ptr = name("data_ptr"),
               full = nb::object(nb::module_::import_("torch").attr("float32")).release();
    static const Names& known() {
        static const Names names;
        return names;
    }
    static nb::handle name(const char* text) {
        PyObject* made = PyUnicode_InternFromString(text);
        if (!made) throw nb::python_error();
        return made;
    }
};

// A tensor's numbers. Its own methods are asked: for each of these calls the way through nb::ndarray takes 2.5 us.
const float* numbers_of(nb::handle tensor, const nb::tuple& shape) {
    const Names& names = Names::known();
    if (!tensor.attr(names.dtype).is(names.full) || !nb::cast<bool>(tensor.attr(names.is_cpu)) ||
        !nb::cast<bool>(tensor.attr(names.is_contiguous)()))
        throw nb::type_error("tensors must be float32, contiguous and on the CPU");
    if (!tensor.attr(names.shape).equal(shape))
        throw nb::value_error("the shapes of logits, draws and penalties do not fit");
    return reinterpret_cast<const float*>(nb::cast<uintptr_t>(tensor.attr(names.data_ptr)()));
}

std::vector<int64_t> ids_below(const nb::object& seen, size_t vocab) {
    std::vector<int64_t> ids;
    ids.reserve(nb::len(seen));
    for (nb::handle item : seen) {
        const auto id = nb::cast<int64_t>(item);
        if (id < 0 || static_cast<size_t>(id) >= vocab)
            throw nb::index_error("a token that was seen is not in the vocabulary");
        ids.push_back(id);
    }
    return ids;
}

nb::list list_of(const std::vector<std::pair<int64_t, double>>& likely) {
    nb::list made;
    for (const auto& [id, logprob] : likely) made.append(nb::make_tuple(id, logprob));
    return made;
}

nb::list choose(nb::handle logits, const nb::list& rows) {
    const Names& names = Names::known();
    const size_t count = nb::len(rows), vocab = nb::cast<size_t>(logits.attr(names.shape)[1]);
    const float* numbers = numbers_of(logits, nb::make_tuple(count, vocab));
    const nb::tuple width = nb::make_tuple(vocab);
    std::vector<Draw> draws(count);
    std::vector<nb::object> objects;  // rows often share their penalties
    std::vector<const float*> penalties_of;
    for (size_t row = 0; row < count; ++row) {
        const nb::handle from = rows[row];
        const auto number = [&](nb::handle name) { return nb::cast<double>(from.attr(name)); };
        Draw& draw = draws[row];
        draw.temperature = number(names.temperature);
        draw.top_p = number(names.top_p);
        draw.min_p = number(names.min_p);
        draw.repetition_penalty = number(names.repetition_penalty);
        draw.uniform = number(names.uniform);
        const auto top_k = nb::cast<int64_t>(from.attr(names.top_k));
        draw.top_k = top_k > 0 ? static_cast<size_t>(top_k) : 0;
        if (const nb::object logprobs = from.attr(names.logprobs); !logprobs.is_none())
            draw.logprobs = nb::cast<int>(logprobs);
        if (draw.repetition_penalty != 1) draw.seen = ids_below(from.attr(names.seen), vocab);
        nb::object penalties = from.attr(names.penalties);
        size_t known = 0;
        while (known < objects.size() && !objects[known].is(penalties)) ++known;
        if (known == objects.size()) {
            penalties_of.push_back(numbers_of(penalties, width));
            objects.push_back(std::move(penalties));
        }
        draw.penalties = penalties_of[known];
    }
    std::vector<Choice> choices(count);
    {
        nb::gil_scoped_release unlocked;
        thread_local Chooser chooser;
        for (size_t row = 0; row < count; ++row)
            choices[row] = chooser.choose(numbers + row * vocab, vocab, draws[row]);
    }
    nb::list made;
    for (size_t row = 0; row < count; ++row) {
        const Choice& choice = choices[row];
        if (draws[row].logprobs < 0 || choice.id < 0) {
            made.append(choice.id);
            continue;
        }
        made.append(nb::make_tuple(choice.id, choice.logprob, list_of(choice.top)));
    }
    return made;
}

nb::list score(nb::handle logits, const std::vector<int64_t>& ids, size_t size, size_t told) {
    const size_t count = ids.size(), vocab = nb::cast<size_t>(logits.attr(Names::known().shape)[1]);
    const float* numbers = numbers_of(logits, nb::make_tuple(count, vocab));
    if (size > vocab) throw nb::value_error("there are fewer logits than tokens");
    for (const int64_t id : ids)
        if (id < 0 || static_cast<size_t>(id) >= size) throw nb::index_error("an id is not in the vocabulary");
    const std::vector<float> penalties(size);
    std::vector<Choice> choices(count);
    {
        nb::gil_scoped_release unlocked;
        thread_local Chooser chooser;
        for (size_t row = 0; row < count; ++row)
            choices[row] = chooser.score(numbers + row * vocab, penalties.data(), size, ids[row], told);
    }
    nb::list made;
    for (const Choice& choice : choices) {
        if (choice.id < 0)
            made.append(nb::none());
        else
            made.append(nb::make_tuple(choice.logprob, list_of(choice.top)));
    }
    return made;
}

}  // namespace

void bind_choose(nb::module_& module) {
    module.def(
        "choose", &choose, nb::arg("logits"), nb::arg("draws"),
        "For each row the next id, or (id, logprob, [(id, logprob), ...]) where the draw asks; -1: none is possible.");
    module.def(
        "score", &score, nb::arg("logits"), nb::arg("ids"), nb::arg("size"), nb::arg("told"),
        "For each row its id's (logprob, [(id, logprob), ...]) among the first `size`; None where one is nan or inf.");
}

}  // namespace nanochat
