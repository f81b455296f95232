// A Python string as it lies in memory, and its UTF-8.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace nanochat {

// A lone half of a surrogate pair is not text; `document` says where it is.
struct SurrogateError : std::runtime_error {
    explicit SurrogateError(size_t document)
        : std::runtime_error("document " + std::to_string(document) + " holds half of a surrogate pair") {}
};

// A string, or a piece of one.
struct Text {
    const void* data;
    int kind;  // bytes per code point: 1, 2 or 4
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

private:
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

constexpr size_t kPiece = 1 << 20;  // approximate code points in one piece of work

// Cuts a long text into pieces: the split pattern always cuts between a letter and a space, whatever follows.
inline void add_pieces(const Text& text, std::vector<Text>& pieces, size_t about = kPiece) {
    Text piece = text;
    while (piece.begin < text.end) {
        size_t cut = std::min(text.end, piece.begin + about);
        while (cut < text.end && !(text[cut] == ' ' && (text[cut - 1] | 0x20) >= 'a' && (text[cut - 1] | 0x20) <= 'z'))
            ++cut;
        piece.end = cut;
        pieces.push_back(piece);
        piece.begin = cut;
    }
}

}  // namespace nanochat
