// The passes over a whole row of logits that choosing a token needs, in vectors of W bytes. Sums have one order
// whatever W is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace nanochat {

constexpr size_t kBlock = 64;  // a row is looked at in whole blocks

#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))  // takes on the instructions of the function that it is used in
template <int W>
struct Vector {
    typedef float Floats __attribute__((vector_size(W), aligned(4), may_alias));
    typedef uint32_t Whole __attribute__((vector_size(W), aligned(4), may_alias));
};
constexpr int kPlain = 16;
#else
#define INLINE inline
template <int W>
struct Vector;
constexpr int kPlain = 4;
#endif
template <>
struct Vector<4> {
    typedef float Floats;
    typedef uint32_t Whole;
};

template <int W>
struct Passes {
    using Floats = typename Vector<W>::Floats;
    using Whole = typename Vector<W>::Whole;
    static constexpr size_t kSums = 16, kWidth = W / 4, kParts = kSums / kWidth;

    // logits + penalties: the largest of every `step` values into maxima, and of all. nan where one is nan or inf.
    static INLINE float find_maxima(const float* logits, const float* penalties, size_t size, size_t step,
                                    float* maxima) {
        constexpr float kNever = -std::numeric_limits<float>::infinity();
        const Floats largest = Floats{} + std::numeric_limits<float>::max();
        Floats top = Floats{} + kNever;
        Whole good = ~Whole{};
        for (size_t begin = 0; begin < size; begin += step) {
            Floats most = Floats{} + kNever;
            for (size_t i = begin; i < begin + step; i += kSums)
                for (size_t part = 0, j = i; part < kParts; ++part, j += kWidth) {
                    const Floats value = at(logits + j) + at(penalties + j);
                    most = value > most ? value : most;
                    good &= value <= largest ? ~Whole{} : Whole{};
                }
            top = most > top ? most : top;
            *maxima++ = largest_of(most);
        }
        uint32_t lanes[kWidth], all = ~0u;
        std::memcpy(lanes, &good, sizeof good);
        for (uint32_t lane : lanes) all &= lane;
        return all ? largest_of(top) : std::numeric_limits<float>::quiet_NaN();
    }

    // values = logits + penalties, weights = 2^((value - most) * scale) and the sum of each block of weights.
    static INLINE void weigh(const float* logits, const float* penalties, size_t size, float most, float scale,
                             float* values, float* weights, double* sums) {
        const float half = most * 0.5f, twice = scale * 2;  // the difference of two large numbers may be no number
        for (size_t block = 0; block < size; block += kBlock) {
            Floats parts[kParts] = {};
            for (size_t i = block; i < block + kBlock; i += kSums)
                for (size_t part = 0, j = i; part < kParts; ++part, j += kWidth) {
                    const Floats value = at(logits + j) + at(penalties + j);
                    Floats weight = (value * 0.5f - half) * twice;
                    power_of_2(weight);
                    std::memcpy(values + j, &value, sizeof value);
                    std::memcpy(weights + j, &weight, sizeof weight);
                    parts[part] += weight;
                }
            *sums++ = sum_of(parts);
        }
    }

    // The sum, in each block, of the weights of values that are at least `least`.
    static INLINE void add_up(const float* values, const float* weights, size_t size, float least, double* sums) {
        const Floats bound = Floats{} + least;
        for (size_t block = 0; block < size; block += kBlock) {
            Floats parts[kParts] = {};
            for (size_t i = block; i < block + kBlock; i += kSums)
                for (size_t part = 0, j = i; part < kParts; ++part, j += kWidth)
                    parts[part] += at(values + j) >= bound ? at(weights + j) : Floats{};
            *sums++ = sum_of(parts);
        }
    }

private:
    static INLINE const Floats& at(const float* numbers) { return *reinterpret_cast<const Floats*>(numbers); }

    // For x <= 0, to 2e-7 of the result, and 1 at 0; 0 where that is below the smallest normal number.
    static INLINE void power_of_2(Floats& x) {
        constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: only whole numbers are left when it is added
        const Floats shifted = x + kRound, rest = x - (shifted - kRound);
        // Of all polynomials with 1 at 0 the one nearest to 2^rest between -1/2 and 1/2.
        Floats power = rest * 1.3264715e-3f + 9.671513e-3f;
        power = power * rest + 5.550734e-2f;
        power = power * rest + 2.4022242e-1f;
        power = power * rest + 6.9314700e-1f;
        power = power * rest + 1.0f;
        Whole whole, bits;
        std::memcpy(&whole, &shifted, sizeof whole);
        std::memcpy(&bits, &power, sizeof bits);
        bits += whole << 23;
        std::memcpy(&power, &bits, sizeof bits);
        x = x > Floats{} - 126.0f ? power : Floats{};
    }

    static INLINE float largest_of(const Floats& values) {
        float lanes[kWidth];
        std::memcpy(lanes, &values, sizeof values);
        for (size_t half = kWidth / 2; half; half /= 2)
            for (size_t i = 0; i < half; ++i) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
        return lanes[0];
    }

    static INLINE double sum_of(const Floats (&parts)[kParts]) {
        float sums[kSums];
        std::memcpy(sums, parts, sizeof sums);
        for (size_t half = kSums / 2; half > 2; half /= 2)
            for (size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
        return (static_cast<double>(sums[0]) + sums[1]) + (static_cast<double>(sums[2]) + sums[3]);
    }
};

}  // namespace nanochat
