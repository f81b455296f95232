#include "choose.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "passes.hpp"

namespace nanochat {
namespace {

constexpr float kMost = std::numeric_limits<float>::max(), kNever = -std::numeric_limits<float>::infinity();

// The passes with the best instructions of this processor that they gain from.
struct Instructions {
    float (*find_maxima)(const float*, const float*, size_t, size_t, float*) = Passes<kPlain>::find_maxima;
    void (*weigh)(const float*, const float*, size_t, float, float, float*, float*, double*) = Passes<kPlain>::weigh;
    void (*add_up)(const float*, const float*, size_t, float, double*) = Passes<kPlain>::add_up;
};

#if defined(__GNUC__) && defined(__x86_64__)
#define WITH_AVX2 __attribute__((target("avx2,fma")))
WITH_AVX2 float find_maxima(const float* logits, const float* penalties, size_t size, size_t step, float* maxima) {
    return Passes<32>::find_maxima(logits, penalties, size, step, maxima);
}
WITH_AVX2 void weigh(const float* logits, const float* penalties, size_t size, float most, float scale, float* values,
                     float* weights, double* sums) {
    Passes<32>::weigh(logits, penalties, size, most, scale, values, weights, sums);
}
WITH_AVX2 void add_up(const float* values, const float* weights, size_t size, float least, double* sums) {
    Passes<32>::add_up(values, weights, size, least, sums);
}
Instructions best() {
    __builtin_cpu_init();
    const bool usable = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return usable ? Instructions{find_maxima, weigh, add_up} : Instructions{};
}
const Instructions passes = best();
#else
const Instructions passes;
#endif

// The smallest float that is at least x.
float at_least(double x) {
    if (x < -static_cast<double>(kMost)) return kNever;
    const float near = static_cast<float>(x);
    return near < x ? std::nextafter(near, kMost) : near;
}

float penalised(float logit, double penalty) {
    if (!std::isfinite(logit)) return logit;
    const double changed = logit > 0 ? logit / penalty : logit * penalty;
    return static_cast<float>(std::clamp(changed, -static_cast<double>(kMost), static_cast<double>(kMost)));
}

// Of two tokens the larger comes first, of equal ones the smaller id.
constexpr auto is_before = [](const auto& a, const auto& b) {
    return a.value != b.value ? a.value > b.value : a.id < b.id;
};

// Where a uniform number in [0, 1) falls on a sum: below it, so that it falls on a token.
double place_on(double total, double uniform) { return std::min(uniform * total, std::nextafter(total, 0.0)); }

}  // namespace

Choice Chooser::choose(const float* logits, size_t vocab, const Draw& draw) {
    Choice choice;
    const bool repeats = draw.repetition_penalty != 1 && !draw.seen.empty();
    const float* changed = logits;
    if (repeats) {
        repeated_.assign(logits, logits + vocab);
        for (int64_t id : draw.seen) repeated_[id] = penalised(logits[id], draw.repetition_penalty);
        changed = repeated_.data();
    }
    if (!look(changed, draw.penalties, vocab)) return choice;
    if (draw.temperature <= 0) {
        find_at_least(most_);
        choice.id = tokens_.front().id;
    } else {
        choice.id = draw.top_k && draw.top_k < vocab ? draw_from_largest(draw) : draw_from_all(draw);
    }
    if (draw.logprobs >= 0) {
        if (repeats) look(logits, draw.penalties, vocab);
        tell(choice, static_cast<size_t>(draw.logprobs));
    }
    return choice;
}

Choice Chooser::score(const float* logits, const float* penalties, size_t vocab, int64_t id, size_t count) {
    Choice choice;
    if (!look(logits, penalties, vocab)) return choice;
    choice.id = id;
    tell(choice, count);
    return choice;
}

// Makes a row the one at work. False where it cannot be drawn from.
bool Chooser::look(const float* logits, const float* penalties, size_t vocab) {
    logits_ = logits, penalties_ = penalties, vocab_ = vocab;
    whole_ = vocab / kBlock * kBlock;
    padded_ = whole_ + (whole_ < vocab ? kBlock : 0);
    step_ = vocab > 8192 ? kBlock : 16;  // the maxima should be several times as many as a usual top_k
    maxima_.resize(padded_ / step_);
    most_ = passes.find_maxima(logits, penalties, whole_, step_, maxima_.data());
    if (whole_ < vocab) {
        end_.assign(kBlock, kNever), nothing_.assign(kBlock, 0.0f);
        for (size_t id = whole_; id < vocab; ++id) end_[id - whole_] = logits[id] + penalties[id];
        const float most =
            passes.find_maxima(end_.data(), nothing_.data(), kBlock, step_, maxima_.data() + whole_ / step_);
        if (most > most_ || std::isnan(most)) most_ = most;
    }
    return std::isfinite(most_);
}

// The tokens whose values are at least `least`, by id.
void Chooser::find_at_least(float least) {
    tokens_.clear();
    for (size_t block = 0; block < maxima_.size(); ++block) {
        if (maxima_[block] < least) continue;
        int32_t found[kBlock];  // written for every id, since a branch would often be foreseen wrong
        size_t count = 0;
        for (size_t id = block * step_, end = std::min(id + step_, vocab_); id < end; ++id) {
            found[count] = static_cast<int32_t>(id);
            count += logits_[id] + penalties_[id] >= least;
        }
        for (size_t i = 0; i < count; ++i) tokens_.push_back({0, logits_[found[i]] + penalties_[found[i]], found[i]});
    }
}

// A value that at least `count` blocks reach, and not many more. There are more blocks than that.
float Chooser::reached_by(size_t count) const {
    const auto reach = [&](float bound) {
        size_t blocks = 0;
        for (const float most : maxima_) blocks += most >= bound;
        return blocks;
    };
    float high = most_, low = most_ - 1;
    for (float width = 2; reach(low) < count; width *= 2) high = low, low = most_ - width;
    for (int step = 0; step < 16; ++step) {
        const float middle = low / 2 + high / 2;
        const size_t blocks = reach(middle);
        (blocks < count ? high : low) = middle;
        if (blocks >= count && blocks <= count + count / 8) break;
    }
    return low;
}

// The `count` tokens with the largest values, by id.
void Chooser::find_largest(size_t count) {
    find_at_least(count < maxima_.size() ? reached_by(count) : kNever);  // so many blocks hold as many such values
    if (count >= tokens_.size()) return;
    bounds_.clear();
    for (const Token& token : tokens_) bounds_.push_back(token.value);
    std::nth_element(bounds_.begin(), bounds_.begin() + (count - 1), bounds_.end(), std::greater<>());
    const float least = bounds_[count - 1];
    size_t room = count, kept = 0;  // room: for tokens that equal it
    for (const Token& token : tokens_) room -= token.value > least;
    for (const Token& token : tokens_)
        if (token.value > least || (token.value == least && room && room--)) tokens_[kept++] = token;
    tokens_.resize(kept);
}

int64_t Chooser::draw_from_largest(const Draw& draw) {
    find_largest(draw.top_k);
    const double most = most_, floor = draw.min_p > 0 ? most + draw.temperature * std::log(draw.min_p) : kNever;
    for (Token& token : tokens_) token.weight = std::exp((token.value - most) / draw.temperature);
    if (draw.top_p < 1) {
        std::sort(tokens_.begin(), tokens_.end(), is_before);
        double total = 0, likelier = 0;
        for (const Token& token : tokens_) total += token.weight;
        size_t kept = 0;
        while (kept < tokens_.size() && (!kept || likelier < draw.top_p * total)) likelier += tokens_[kept++].weight;
        tokens_.resize(kept);
    }
    std::erase_if(tokens_, [&](const Token& token) { return !(token.value >= floor && token.weight > 0); });
    if (draw.top_p < 1)
        std::sort(tokens_.begin(), tokens_.end(), [](const Token& a, const Token& b) { return a.id < b.id; });
    double total = 0, sum = 0;
    for (const Token& token : tokens_) total += token.weight;
    const double place = place_on(total, draw.uniform);
    for (const Token& token : tokens_)
        if ((sum += token.weight) > place) return token.id;
    return tokens_.back().id;
}

// Fills values_, weights_ = e^((value - most) / temperature) and sums_, and returns the sum of all.
double Chooser::weigh(double temperature) {
    values_.resize(padded_), weights_.resize(padded_), sums_.resize(padded_ / kBlock);
    const auto scale = static_cast<float>(std::min(1.4426950408889634 / temperature, kMost / 4.0));
    passes.weigh(logits_, penalties_, whole_, most_, scale, values_.data(), weights_.data(), sums_.data());
    if (whole_ < padded_)
        passes.weigh(end_.data(), nothing_.data(), kBlock, most_, scale, values_.data() + whole_,
                     weights_.data() + whole_, sums_.data() + whole_ / kBlock);
    return std::accumulate(sums_.begin(), sums_.end(), 0.0);
}

// Fills sums_ with the weights of values that are at least `least`, and returns the sum of all.
double Chooser::add_up(float least) {
    sums_.resize(padded_ / kBlock);
    passes.add_up(values_.data(), weights_.data(), padded_, least, sums_.data());
    return std::accumulate(sums_.begin(), sums_.end(), 0.0);
}

// The least value of the fewest tokens that have the share top_p of the weights, whose sum is `total`. Tokens that
// equal it but are not among them lose their weights.
float Chooser::least_of_top_p(const Draw& draw, double total) {
    const double most = most_, need = draw.top_p * total;
    const auto below = [&](double by) { return std::nextafter(at_least(most - draw.temperature * by), kNever); };
    // All tokens together that are less likely than this have less than what is left out. None is 88 less: 2^-126 is
    // the least weight there is.
    float low = below(std::min(std::log(static_cast<double>(vocab_) / (total - need)), 88.0));
    double low_sum = add_up(low);
    if (low_sum < need) low_sum = add_up(low = below(88));  // by rounding
    low_sums_.swap(sums_);
    float high = std::nextafter(most_, std::numeric_limits<float>::infinity());
    double high_sum = 0;
    high_sums_.assign(low_sums_.size(), 0.0);
    // Narrowed until few are left between: each of those weighs at least as much as the lowest. The next bound is where
    // a line between the sums meets the need (an end that stays counts half, so that both ends move), or every third
    // time the middle, which takes few steps whatever the sums are like.
    double above = low_sum - need, under = need - high_sum;
    for (int step = 1; low_sum - high_sum > 64 * std::exp((low - most) / draw.temperature); ++step) {
        const double width = static_cast<double>(high) - low, share = step % 3 ? above / (above + under) : 0.5;
        auto middle = static_cast<float>(low + width * share);
        if (!(middle > low && middle < high)) middle = static_cast<float>(low + width / 2);
        if (!(middle > low && middle < high)) break;
        const double sum = add_up(middle);
        if (sum < need) {
            high = middle, high_sum = sum, under = need - sum, above /= 2;
            high_sums_.swap(sums_);
        } else {
            low = middle, low_sum = sum, above = sum - need, under /= 2;
            low_sums_.swap(sums_);
        }
    }
    tokens_.clear();
    for (size_t block = 0; block < low_sums_.size(); ++block) {
        if (low_sums_[block] == high_sums_[block]) continue;
        for (size_t id = block * kBlock; id < (block + 1) * kBlock; ++id)
            if (values_[id] >= low && values_[id] < high)
                tokens_.push_back({weights_[id], values_[id], static_cast<int32_t>(id)});
    }
    std::sort(tokens_.begin(), tokens_.end(), is_before);
    size_t kept = 0;
    for (double sum = high_sum; kept < tokens_.size() && (!kept || sum < need); ++kept) sum += tokens_[kept].weight;
    for (size_t i = kept; i < tokens_.size(); ++i) weights_[tokens_[i].id] = 0;
    return kept ? tokens_[kept - 1].value : high;
}

int64_t Chooser::draw_from_all(const Draw& draw) {
    double total = weigh(draw.temperature);
    float least = kNever;
    if (draw.top_p < 1) least = least_of_top_p(draw, total);
    if (draw.min_p > 0) least = std::max(least, at_least(most_ + draw.temperature * std::log(draw.min_p)));
    if (least != kNever) total = add_up(least);
    const double place = place_on(total, draw.uniform);
    double sum = 0;
    size_t block = 0;
    for (; sum + sums_[block] <= place; ++block) sum += sums_[block];
    size_t last = 0;  // where this order of the sum does not reach the place
    for (size_t id = block * kBlock; id < (block + 1) * kBlock; ++id) {
        if (values_[id] < least || weights_[id] == 0) continue;
        last = id;
        if ((sum += weights_[id]) > place) break;
    }
    return static_cast<int64_t>(last);
}

// Log-probabilities of the row at work: the chosen token's, and the `count` likeliest.
void Chooser::tell(Choice& choice, size_t count) {
    const double most = most_, log_total = std::log(weigh(1));
    choice.logprob = (logits_[choice.id] + penalties_[choice.id] - most) - log_total;
    if (!count) return;
    find_largest(std::min(count, vocab_));
    std::sort(tokens_.begin(), tokens_.end(), is_before);
    for (const Token& token : tokens_)
        if (token.value > kNever) choice.top.emplace_back(token.id, (token.value - most) - log_total);
}

}  // namespace nanochat
