// The split pattern as a state machine over UTF-8.
//
// It cuts text exactly as these alternatives do, tried in order at every place (the GPT-4 family; D = most digits
// of a chunk):
//   '(?i:[sdmt]|ll|ve|re) | [^\r\n\p{L}\p{N}]?+\p{L}+ | \p{N}{1,D} | ?[^\s\p{L}\p{N}]++[\r\n]* | \s*[\r\n]
//   | \s+(?!\S) | \s+
// Every byte belongs to exactly one chunk. Time is linear in the text: a run of white space is read at most twice.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>

#ifdef __GNUC__
#define NANOCHAT_INLINE [[gnu::always_inline]] inline  // the compiler's own choice cost a third of the speed
#else
#define NANOCHAT_INLINE inline
#endif

namespace nanochat {

enum Class : uint8_t { kOther, kLetter, kNumber, kSpace, kNewline };

struct ClassRange {
    uint32_t first, last;
    Class kind;
};

#include "unicode_ranges.inc"

// Class of every code point, one byte each: text touches few pages of it.
inline const uint8_t* class_table() {
    static const std::unique_ptr<uint8_t[]> table = [] {
        auto made = std::make_unique<uint8_t[]>(0x110000);
        for (const ClassRange& range : kClassRanges)
            for (uint32_t point = range.first; point <= range.last; ++point) made[point] = range.kind;
        made['\r'] = made['\n'] = kNewline;
        return made;
    }();
    return table.get();
}

class Splitter {
public:
    // max_digits: digits in one chunk at most, 1 to 3.
    explicit Splitter(int max_digits) : classes_(class_table()), max_digits_(max_digits) {
        if (max_digits < 1 || max_digits > 3) throw std::invalid_argument("digits must be 1, 2 or 3");
    }

    // Calls emit(chunk, size) for each chunk in order. `text` is valid UTF-8.
    template <class Emit>
    void split(const uint8_t* text, size_t size, Emit&& emit) const {
        const uint8_t* const end = text + size;
        while (text < end) {
            const uint8_t* const after = chunk_end(text, end);
            emit(text, static_cast<size_t>(after - text));
            text = after;
        }
    }

private:
    struct Char {
        uint8_t kind;
        uint8_t size;
    };

    const uint8_t* classes_;
    int max_digits_;

    NANOCHAT_INLINE Char at(const uint8_t* p) const {
        const uint32_t b = p[0];
        if (b < 0x80) return {classes_[b], 1};
        if (b < 0xE0) return {classes_[(b & 0x1F) << 6 | (p[1] & 0x3F)], 2};
        if (b < 0xF0) return {classes_[(b & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F)], 3};
        return {classes_[(b & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F)], 4};
    }

    const uint8_t* run(const uint8_t* p, const uint8_t* end, uint8_t kind) const {
        while (p < end) {
            const Char c = at(p);
            if (c.kind != kind) break;
            p += c.size;
        }
        return p;
    }

    // The end of the letters from `p` on. Most words are ASCII and short: one look at eight bytes finds their end
    // without a branch for each letter.
    NANOCHAT_INLINE const uint8_t* letters(const uint8_t* p, const uint8_t* end) const {
        while (end - p >= 8) {
            uint64_t word;
            std::memcpy(&word, p, 8);
            const uint64_t low = (word | 0x2020202020202020u) & 0x7F7F7F7F7F7F7F7Fu;
            const uint64_t from_a = low + 0x1F1F1F1F1F1F1F1Fu, past_z = low + 0x0505050505050505u;
            const uint64_t others = ~(from_a & ~past_z & ~word) & 0x8080808080808080u;
            if (others) {
                p += std::countr_zero(others) >> 3;
                if (*p < 0x80) return p;
                break;
            }
            p += 8;
        }
        return run(p, end, kLetter);
    }

    NANOCHAT_INLINE const uint8_t* chunk_end(const uint8_t* start, const uint8_t* end) const {
        // by far the most common chunk: letters, and often a space before them
        const uint8_t* const word = start + (*start == ' ');
        if (word < end && *word < 0x80 && classes_[*word] == kLetter) return letters(word + 1, end);
        const Char first = at(start);
        const uint8_t* const second = start + first.size;
        switch (first.kind) {
            case kLetter:
                return letters(second, end);
            case kNumber:
                return digits(second, end);
            case kNewline:
                return white_space(start, end);
            case kSpace:
                if (second < end) {
                    const Char next = at(second);
                    if (next.kind == kLetter) return letters(second + next.size, end);
                    if (next.kind == kOther && *start == ' ') return symbols(second + next.size, end);
                }
                return white_space(start, end);
            default:
                if (*start == '\'')
                    if (const size_t size = contraction(second, end)) return second + size;
                if (second < end) {
                    const Char next = at(second);
                    if (next.kind == kLetter) return letters(second + next.size, end);
                }
                return symbols(second, end);
        }
    }

    const uint8_t* digits(const uint8_t* p, const uint8_t* end) const {
        for (int count = 1; count < max_digits_ && p < end; ++count) {
            const Char c = at(p);
            if (c.kind != kNumber) break;
            p += c.size;
        }
        return p;
    }

    const uint8_t* symbols(const uint8_t* p, const uint8_t* end) const {
        return run(run(p, end, kOther), end, kNewline);
    }

    // Bytes after an apostrophe that make a contraction with it. Case folds as in Unicode: U+017F is an s.
    static size_t contraction(const uint8_t* p, const uint8_t* end) {
        if (p == end) return 0;
        const uint8_t a = p[0] | 0x20;
        if (a == 's' || a == 'd' || a == 'm' || a == 't') return 1;
        if (end - p < 2) return 0;
        if (p[0] == 0xC5 && p[1] == 0xBF) return 2;
        const uint8_t b = p[1] | 0x20;
        return (a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e') ? 2 : 0;
    }

    // Up to the run's last newline; without one, the whole run, less its last character if a non-space follows.
    const uint8_t* white_space(const uint8_t* start, const uint8_t* end) const {
        const uint8_t *p = start, *last = start, *after_newline = nullptr;
        while (p < end) {
            const Char c = at(p);
            if (c.kind != kSpace && c.kind != kNewline) break;
            last = p;
            p += c.size;
            if (c.kind == kNewline) after_newline = p;
        }
        if (after_newline) return after_newline;
        return p == end || last == start ? p : last;
    }
};

}  // namespace nanochat
