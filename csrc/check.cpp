// Compares the native tokenizer with slow, obvious versions of itself on random text, until SECONDS have passed.
// Meant to be built with -fsanitize=address,undefined (tests/tokenizer/test_native_memory.py does).
//   check SECONDS SEED
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "chunks.hpp"
#include "encoder.hpp"
#include "learner.hpp"
#include "split.hpp"
#include "text.hpp"

using namespace nanochat;
using Bytes = std::string;

namespace {

std::mt19937_64 rng;

size_t below(size_t limit) { return rng() % limit; }

void put(Bytes& text, uint32_t c) {
    if (c < 0x80) {
        text += static_cast<char>(c);
    } else if (c < 0x800) {
        text += static_cast<char>(0xC0 | c >> 6);
        text += static_cast<char>(0x80 | (c & 63));
    } else if (c < 0x10000) {
        text += static_cast<char>(0xE0 | c >> 12);
        text += static_cast<char>(0x80 | (c >> 6 & 63));
        text += static_cast<char>(0x80 | (c & 63));
    } else {
        text += static_cast<char>(0xF0 | c >> 18);
        text += static_cast<char>(0x80 | (c >> 12 & 63));
        text += static_cast<char>(0x80 | (c >> 6 & 63));
        text += static_cast<char>(0x80 | (c & 63));
    }
}

uint32_t any_point() {
    for (;;) {
        static const uint32_t limits[] = {0x80, 0x800, 0x10000, 0x110000};
        const uint32_t c = static_cast<uint32_t>(below(limits[below(4)]));
        if (c < 0xD800 || c >= 0xE000) return c;
    }
}

// Words from a small set, so that there are merges to learn, with awkward characters in between.
Bytes random_text() {
    static const char* const bits[] = {"the", "a",  "aaaa", "ab",  " ",   " ",  " ",  "  ", "\n", "\r\n", "\t",
                                       "'s",  "'",  "'LL",  "'rE", "12",  "345", ".", "...", "!?", "=",   "_",
                                       "é",   "ß",  "中文", "'ſ",  "\u00a0", "\u3000", "٣", "½",  "🎉",  "Straße"};
    Bytes text;
    const size_t size = below(4) ? below(60) : below(3000);
    while (text.size() < size) {
        switch (below(12)) {
            case 0: put(text, any_point()); break;
            case 1:
                for (size_t n = below(below(20) ? 40 : 400), c = any_point(); n > 0; --n) put(text, static_cast<uint32_t>(c));
                break;
            case 2: text += Bytes(below(70), "abx .\n"[below(6)]); break;
            default: text += bits[below(std::size(bits))];
        }
    }
    return text;
}

struct Point {
    uint32_t value;
    size_t size;
    uint8_t kind;
};

std::vector<Point> points(const Bytes& text) {
    std::vector<Point> found;
    for (size_t i = 0; i < text.size();) {
        const uint8_t b = static_cast<uint8_t>(text[i]);
        const size_t size = b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
        uint32_t c = size == 1 ? b : b & (0x3F >> (size - 1));
        for (size_t k = 1; k < size; ++k) c = c << 6 | (static_cast<uint8_t>(text[i + k]) & 63);
        found.push_back({c, size, class_table()[c]});
        i += size;
    }
    return found;
}

// The pattern read alternative by alternative. Returns how many code points the chunk at `i` has.
size_t chunk_points(const std::vector<Point>& p, size_t i, int max_digits) {
    const auto kind = [&](size_t k) { return k < p.size() ? static_cast<int>(p[k].kind) : -1; };
    const auto is = [&](size_t k, const char* set) {
        if (k >= p.size()) return false;
        if (p[k].value == 0x17F) return std::strchr(set, 's') != nullptr;
        return p[k].value < 0x80 && p[k].value && std::strchr(set, std::tolower(static_cast<int>(p[k].value)));
    };
    const auto space = [&](size_t k) { return kind(k) == kSpace || kind(k) == kNewline; };
    if (p[i].value == '\'') {
        if (is(i + 1, "sdmt")) return 2;
        if ((is(i + 1, "l") && is(i + 2, "l")) || (is(i + 1, "vr") && is(i + 2, "e"))) return 3;
    }
    {
        size_t k = i;
        if (kind(k) == kOther || kind(k) == kSpace) ++k;
        const size_t letters = k;
        while (kind(k) == kLetter) ++k;
        if (k > letters) return k - i;
    }
    if (kind(i) == kNumber) {
        size_t k = i;
        while (kind(k) == kNumber && k - i < static_cast<size_t>(max_digits)) ++k;
        return k - i;
    }
    {
        size_t k = i + (p[i].value == ' ');
        const size_t symbols = k;
        while (kind(k) == kOther) ++k;
        if (k > symbols) {
            while (kind(k) == kNewline) ++k;
            return k - i;
        }
    }
    size_t end = i;
    while (space(end)) ++end;
    for (size_t k = end; k > i; --k)
        if (kind(k - 1) == kNewline) return k - i;
    if (end < p.size() && end - i > 1) return end - i - 1;
    return end - i;
}

std::vector<Bytes> slow_split(const Bytes& text, int max_digits) {
    const std::vector<Point> p = points(text);
    std::vector<Bytes> chunks;
    for (size_t i = 0, byte = 0; i < p.size();) {
        size_t size = 0;
        for (size_t n = chunk_points(p, i, max_digits); n > 0; --n) size += p[i++].size;
        chunks.push_back(text.substr(byte, size));
        byte += size;
    }
    return chunks;
}

using Words = std::map<Bytes, uint64_t>;

std::vector<Learner::Merge> slow_learn(const Words& counts, size_t merges) {
    std::vector<std::pair<std::vector<uint32_t>, uint64_t>> words;
    for (const auto& [word, count] : counts) {
        std::vector<uint32_t> ids;
        for (const char c : word) ids.push_back(static_cast<uint8_t>(c));
        words.push_back({ids, count});
    }
    std::vector<Learner::Merge> learnt;
    while (learnt.size() < merges) {
        std::map<Learner::Merge, uint64_t> pairs;
        for (const auto& [ids, count] : words)
            for (size_t i = 0; i + 1 < ids.size(); ++i) pairs[{ids[i], ids[i + 1]}] += count;
        if (pairs.empty()) break;
        auto best = pairs.begin();
        for (auto it = pairs.begin(); it != pairs.end(); ++it)
            if (it->second > best->second) best = it;
        const auto [left, right] = best->first;
        for (auto& [ids, count] : words) {
            std::vector<uint32_t> merged;
            for (size_t i = 0; i < ids.size(); ++i)
                if (i + 1 < ids.size() && ids[i] == left && ids[i + 1] == right) {
                    merged.push_back(static_cast<uint32_t>(256 + learnt.size()));
                    ++i;
                } else {
                    merged.push_back(ids[i]);
                }
            ids = merged;
        }
        learnt.push_back({left, right});
    }
    return learnt;
}

void slow_encode(const Bytes& chunk, const std::map<Bytes, uint32_t>& ranks, Encoder::Ids& ids) {
    std::vector<Bytes> parts;
    if (ranks.count(chunk))
        parts = {chunk};
    else
        for (const char c : chunk) parts.push_back(Bytes(1, c));
    for (;;) {
        uint32_t best = UINT32_MAX;
        size_t place = 0;
        for (size_t i = 0; i + 1 < parts.size(); ++i) {
            const auto found = ranks.find(parts[i] + parts[i + 1]);
            if (found != ranks.end() && found->second < best) best = found->second, place = i;
        }
        if (best == UINT32_MAX) break;
        parts[place] += parts[place + 1];
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
    for (const Bytes& part : parts) ids.push_back(ranks.at(part));
}

void require(bool holds, const char* what, uint64_t seed) {
    if (holds) return;
    std::printf("MISMATCH in %s, case seed %llu\n", what, static_cast<unsigned long long>(seed));
    std::exit(1);
}

// Strings as Python keeps them, cut into pieces of any size, give the same bytes and chunks.
void check_text(const Bytes& text, int max_digits, uint64_t seed) {
    const std::vector<Point> p = points(text);
    uint32_t widest = 0;
    for (const Point& point : p) widest = std::max(widest, point.value);
    const int kind = widest < 0x100 ? 1 : widest < 0x10000 ? 2 : 4;
    std::vector<uint8_t> memory(p.size() * static_cast<size_t>(kind));
    for (size_t i = 0; i < p.size(); ++i)
        std::memcpy(memory.data() + i * static_cast<size_t>(kind), &p[i].value, static_cast<size_t>(kind));
    const Text whole{memory.data(), kind, widest < 0x80, 0, p.size(), 0};
    std::vector<Text> pieces;
    add_pieces(whole, pieces, 1 + below(50));
    std::vector<Bytes> chunks;
    std::vector<uint8_t> room;
    Bytes joined;
    for (const Text& piece : pieces) {
        const auto [bytes, size] = piece.utf8(room);
        joined.append(reinterpret_cast<const char*>(bytes), size);
        Splitter(max_digits).split(bytes, size, [&](const uint8_t* chunk, size_t length) {
            chunks.emplace_back(reinterpret_cast<const char*>(chunk), length);
        });
    }
    require(joined == text, "utf8", seed);
    require(chunks == slow_split(text, max_digits), "pieces", seed);
}

void one_case(uint64_t seed) {
    rng.seed(seed);
    const int max_digits = 1 + static_cast<int>(below(3));
    std::vector<std::unique_ptr<uint8_t[]>> buffers;  // of exactly the text's size, so that reading past it shows
    std::vector<std::pair<const uint8_t*, size_t>> texts;
    Words counts;
    std::vector<Bytes> originals;
    ChunkTable tables[2];
    const Splitter splitter(max_digits);
    for (size_t n = 1 + below(6); n > 0; --n) {
        const Bytes text = random_text();
        originals.push_back(text);
        check_text(text, max_digits, seed);
        buffers.push_back(std::make_unique_for_overwrite<uint8_t[]>(text.size()));
        uint8_t* own = buffers.back().get();
        if (!text.empty()) std::memcpy(own, text.data(), text.size());
        texts.push_back({own, text.size()});
        std::vector<Bytes> chunks;
        splitter.split(own, text.size(), [&](const uint8_t* chunk, size_t size) {
            chunks.emplace_back(reinterpret_cast<const char*>(chunk), size);
            tables[n % 2].add(chunk, size, static_cast<size_t>(own + text.size() - chunk));
        });
        require(chunks == slow_split(text, max_digits), "split", seed);
        for (const Bytes& chunk : chunks) ++counts[chunk];
    }
    tables[0].absorb(tables[1]);
    Words counted;
    tables[0].each([&](const Key& key, uint64_t count) {
        counted[Bytes(reinterpret_cast<const char*>(key.bytes()), key.size())] = count;
    });
    require(counted == counts, "count", seed);

    const size_t merges = below(below(2) ? 30 : 300);
    Learner learner(tables[0], merges, below(2) ? 3 : UINT32_MAX);
    while (learner.learn(1 + below(20))) {
    }
    require(learner.merges() == slow_learn(counts, merges), "learn", seed);

    std::vector<Bytes> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(Bytes(1, static_cast<char>(byte)));
    for (const auto& [left, right] : learner.merges()) tokens.push_back(tokens[left] + tokens[right]);
    std::map<Bytes, uint32_t> ranks;
    for (uint32_t id = 0; id < tokens.size(); ++id) ranks[tokens[id]] = id;
    const Encoder encoder(tokens, max_digits);
    Encoder::Recent recent;
    for (size_t n = 0; n < texts.size(); ++n) {
        Encoder::Ids fast, slow;
        encoder.encode(texts[n].first, texts[n].second, recent, fast);
        for (const Bytes& chunk : slow_split(originals[n], max_digits)) slow_encode(chunk, ranks, slow);
        require(fast == slow, "encode", seed);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return std::printf("check SECONDS SEED\n"), 2;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[1]));
    uint64_t seed = std::strtoull(argv[2], nullptr, 10), cases = 0;
    while (std::chrono::steady_clock::now() < end) one_case(seed++), ++cases;
    std::printf("%llu cases agree\n", static_cast<unsigned long long>(cases));
}
