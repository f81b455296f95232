// choose(logits, draws): Python's Draw objects are read, all rows are chosen without the GIL, and the choices returned.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "choose.hpp"

namespace nb = nanobind;

namespace nanochat {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Penalties = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Names of attributes, made once.
struct Names {
    nb::handle temperature = name("temperature"), top_k = name("top_k"), top_p = name("top_p"), min_p = name("min_p"),
               repetition_penalty = name("repetition_penalty"), seen = name("seen"), penalties = name("penalties"),
               uniform = name("uniform"), logprobs = name("logprobs");
    static nb::handle name(const char* text) {
        PyObject* made = PyUnicode_InternFromString(text);
        if (!made) throw nb::python_error();
        return made;
    }
};

std::vector<int64_t> ids_below(const nb::object& seen, size_t vocab) {
    std::vector<int64_t> ids;
    ids.reserve(nb::len(seen));
    for (nb::handle item : seen) {
        const auto id = nb::cast<int64_t>(item);
        if (id < 0 || static_cast<size_t>(id) >= vocab) throw nb::index_error("a token that was seen is not in the vocabulary");
        ids.push_back(id);
    }
    return ids;
}

nb::list choose(const Logits& logits, const nb::list& rows) {
    static const Names names;
    const size_t count = logits.shape(0), vocab = logits.shape(1);
    if (nb::len(rows) != count) throw nb::value_error("there must be one draw for each row");
    std::vector<Draw> draws(count);
    std::vector<nb::object> objects;  // rows often share their penalties
    std::vector<Penalties> arrays;
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
        if (const nb::object logprobs = from.attr(names.logprobs); !logprobs.is_none()) draw.logprobs = nb::cast<int>(logprobs);
        if (draw.repetition_penalty != 1) draw.seen = ids_below(from.attr(names.seen), vocab);
        nb::object penalties = from.attr(names.penalties);
        size_t known = 0;
        while (known < objects.size() && !objects[known].is(penalties)) ++known;
        if (known == objects.size()) {
            arrays.push_back(nb::cast<Penalties>(penalties));
            objects.push_back(std::move(penalties));
            if (arrays.back().shape(0) != vocab) throw nb::value_error("there must be one penalty for each token");
        }
        draw.penalties = arrays[known].data();
    }
    std::vector<Choice> choices(count);
    {
        nb::gil_scoped_release unlocked;
        thread_local Chooser chooser;
        for (size_t row = 0; row < count; ++row) choices[row] = chooser.choose(logits.data() + row * vocab, vocab, draws[row]);
    }
    nb::list made;
    for (size_t row = 0; row < count; ++row) {
        const Choice& choice = choices[row];
        if (draws[row].logprobs < 0 || choice.id < 0) {
            made.append(choice.id);
            continue;
        }
        nb::list top;
        for (const auto& [id, logprob] : choice.top) top.append(nb::make_tuple(id, logprob));
        made.append(nb::make_tuple(choice.id, choice.logprob, top));
    }
    return made;
}

}  // namespace

void bind_choose(nb::module_& module) {
    module.def("choose", &choose, nb::arg("logits"), nb::arg("draws"),
               "For each row the next id, or (id, logprob, [(id, logprob), ...]) where the draw asks; -1: none is possible.");
}

}  // namespace nanochat
