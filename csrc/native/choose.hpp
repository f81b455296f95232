// Choosing the next token of a row of logits. What each setting means is said in nanochat/inference/sampling.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace nanochat {

struct Draw {
    double temperature = 0, top_p = 1, min_p = 0, repetition_penalty = 1, uniform = 0;
    size_t top_k = 0;
    std::vector<int64_t> seen;
    const float* penalties = nullptr;
    int logprobs = -1;  // -1: none are told
};

struct Choice {
    int64_t id = -1;  // -1: a logit is nan or inf, or no token is possible
    double logprob = 0;
    std::vector<std::pair<int64_t, double>> top;
};

// Holds the room that a row takes while it is worked on: one thread uses one of these.
class Chooser {
public:
    Choice choose(const float* logits, size_t vocab, const Draw& draw);

    // `id` itself, which has penalty 0, with its log-probability and the `count` likeliest; -1 as above.
    Choice score(const float* logits, const float* penalties, size_t vocab, int64_t id, size_t count);

private:
    struct Token {
        double weight;
        float value;
        int32_t id;
    };

    // The row at work: logits + penalties. Its end is copied to where it fills a block.
    const float* logits_ = nullptr;
    const float* penalties_ = nullptr;
    size_t vocab_ = 0, whole_ = 0, padded_ = 0;  // tokens; those in whole blocks; with the block at the end
    std::vector<float> end_, nothing_;
    std::vector<float> maxima_;  // of every `step_` values
    size_t step_ = 0;
    float most_ = 0;

    std::vector<Token> tokens_;            // some of the row's
    std::vector<float> values_, weights_;  // all of them
    std::vector<double> sums_;             // of each block of weights
    std::vector<double> low_sums_, high_sums_;
    std::vector<float> repeated_, bounds_;

    bool look(const float* logits, const float* penalties, size_t vocab);
    void find_at_least(float least);
    float reached_by(size_t count) const;
    void find_largest(size_t count);
    int64_t draw_from_largest(const Draw& draw);
    double weigh(double temperature);
    double add_up(float least);
    float least_of_top_p(const Draw& draw, double total);
    int64_t draw_from_all(const Draw& draw);
    void tell(Choice& choice, size_t count);
};

}  // namespace nanochat
