// Text to ids: chunks of the split pattern, each merged by rank as tiktoken does; ids of recent chunks are cached.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <queue>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "chunks.hpp"
#include "split.hpp"

namespace nanochat {

class Encoder {
public:
    using Ids = std::vector<uint32_t>;

    // A cache of recent chunks' ids, for one thread; a chunk overwrites the earlier one in its slot.
    class Recent {
        friend class Encoder;
        static constexpr size_t kSlots = 1 << 14, kIds = 9;
        struct alignas(64) Slot {
            Key key;
            uint32_t count;
            uint32_t ids[kIds];
        };
        std::vector<Slot> slots_ = std::vector<Slot>(kSlots);
    };

    // tokens[id]: bytes of each token; all 256 single bytes are among them.
    Encoder(std::vector<std::string> tokens, int max_digits)
        : splitter_(max_digits), tokens_(std::move(tokens)), cells_(std::bit_ceil(tokens_.size() * 2 + 2)) {
        for (uint32_t id = 0; id < tokens_.size(); ++id) {
            const auto* bytes = reinterpret_cast<const uint8_t*>(tokens_[id].data());
            const size_t size = tokens_[id].size();
            if (!size) continue;  // never met in text
            Cell& cell = find(make_key(bytes, size, size));
            if (cell.key.c) throw std::invalid_argument("two tokens have the same bytes");
            cell = {make_key(bytes, size, size), id};
        }
        bytes_.resize(256);
        pairs_.resize(1 << 16);
        for (uint32_t a = 0; a < 256; ++a) {
            const uint8_t one = static_cast<uint8_t>(a);
            if ((bytes_[a] = id_of(&one, 1, 1)) == kNone) throw std::invalid_argument("a byte is not a token");
            for (uint32_t b = 0; b < 256; ++b) {
                const uint8_t two[] = {one, static_cast<uint8_t>(b)};
                pairs_[a << 8 | b] = id_of(two, 2, 2);
            }
        }
    }

    // Appends the ids of `text`, which is valid UTF-8.
    void encode(const uint8_t* text, size_t size, Recent& recent, Ids& ids) const {
        const uint8_t* const end = text + size;
        splitter_.split(text, size, [&](const uint8_t* chunk, size_t bytes) {
            encode_chunk(chunk, bytes, static_cast<size_t>(end - chunk), recent, ids);
        });
    }

private:
    static constexpr uint32_t kNone = UINT32_MAX;
    static constexpr size_t kShort = 64;  // up to this size, trying all pairs beats a queue

    struct Cell {
        Key key{0, 0, 0};
        uint32_t id = 0;
    };

    Splitter splitter_;
    std::vector<std::string> tokens_;
    std::vector<Cell> cells_;       // by hash of the token's bytes
    std::vector<uint32_t> bytes_;   // id of each byte
    std::vector<uint32_t> pairs_;   // id of each two bytes, or kNone

    Cell& find(const Key& key) {
        size_t i = hash_key(key) & (cells_.size() - 1);
        while (cells_[i].key.c && !same(cells_[i].key, key)) i = (i + 1) & (cells_.size() - 1);
        return cells_[i];
    }

    uint32_t id_of(const Key& key) const {
        const Cell& cell = const_cast<Encoder*>(this)->find(key);
        return cell.key.c ? cell.id : kNone;
    }

    uint32_t id_of(const uint8_t* bytes, size_t size, size_t readable) const {
        return id_of(make_key(bytes, size, readable));
    }

    void encode_chunk(const uint8_t* chunk, size_t size, size_t readable, Recent& recent, Ids& ids) const {
        if (size > kInlineSize) {
            merge(chunk, size, ids);
            return;
        }
        const Key key = make_key(chunk, size, readable);
        Recent::Slot& slot = recent.slots_[hash_key(key) & (Recent::kSlots - 1)];
        if (slot.key.c == key.c && slot.key.a == key.a && slot.key.b == key.b) {
            ids.insert(ids.end(), slot.ids, slot.ids + slot.count);
            return;
        }
        const size_t before = ids.size();
        if (const uint32_t id = id_of(key); id != kNone)
            ids.push_back(id);
        else
            merge(chunk, size, ids);
        const size_t count = ids.size() - before;
        if (count > Recent::kIds) return;
        slot.key = key;
        slot.count = static_cast<uint32_t>(count);
        std::copy(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end(), slot.ids);
    }

    void merge(const uint8_t* chunk, size_t size, Ids& ids) const {
        if (size > kInlineSize)
            if (const uint32_t id = id_of(chunk, size, size); id != kNone) return ids.push_back(id);
        if (size <= kShort) return merge_short(chunk, size, ids);
        merge_long(chunk, size, ids);
    }

    // Repeatedly merges the pair whose token has the lowest id; among equals, the first.
    void merge_short(const uint8_t* chunk, size_t size, Ids& ids) const {
        struct Part {
            uint32_t id, start;
            uint32_t merged;  // id of this part and the next one together
        } parts[kShort + 1];
        size_t count = size;
        for (size_t i = 0; i < size; ++i)
            parts[i] = {bytes_[chunk[i]], static_cast<uint32_t>(i), i + 1 < size ? pair(chunk + i) : kNone};
        parts[size] = {kNone, static_cast<uint32_t>(size), kNone};
        for (;;) {
            size_t best = 0;
            for (size_t i = 1; i < count; ++i)
                if (parts[i].merged < parts[best].merged) best = i;
            if (parts[best].merged == kNone) break;
            parts[best].id = parts[best].merged;
            std::copy(parts + best + 2, parts + count + 1, parts + best + 1);
            --count;
            const auto both = [&](size_t i) {
                if (i + 1 >= count) return kNone;
                return id_of(chunk + parts[i].start, parts[i + 2].start - parts[i].start, size - parts[i].start);
            };
            parts[best].merged = both(best);
            if (best) parts[best - 1].merged = both(best - 1);
        }
        for (size_t i = 0; i < count; ++i) ids.push_back(parts[i].id);
    }

    // The same with a queue, so that a chunk of megabytes takes n log n.
    void merge_long(const uint8_t* chunk, size_t size, Ids& ids) const {
        if (size >= UINT32_MAX) throw std::length_error("a chunk of text exceeds 4 GB");
        struct Candidate {
            uint32_t id, first, size;
            bool operator<(const Candidate& other) const {
                return id != other.id ? id > other.id : first > other.first;
            }
        };
        const uint32_t total = static_cast<uint32_t>(size);
        // By first byte of a part: its size (0: no part starts here) and id; by last byte: where the part starts.
        std::vector<uint32_t> sizes(total, 1), part_ids(total), starts(total);
        std::vector<Candidate> heap;
        for (uint32_t i = 0; i < total; ++i) {
            part_ids[i] = bytes_[chunk[i]];
            starts[i] = i;
            if (i + 1 < total)
                if (const uint32_t id = pair(chunk + i); id != kNone) heap.push_back({id, i, 2});
        }
        std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(heap));
        const auto offer = [&](uint32_t first) {
            const uint32_t next = first + sizes[first];
            if (next >= total) return;
            const uint32_t both = sizes[first] + sizes[next];
            if (const uint32_t id = id_of(chunk + first, both, total - first); id != kNone)
                queue.push({id, first, both});
        };
        while (!queue.empty()) {
            const Candidate top = queue.top();
            queue.pop();
            const uint32_t first = top.first, own = sizes[first];
            if (!own || own >= top.size) continue;  // swallowed, or merged since
            const uint32_t second = first + own;
            if (second >= total || own + sizes[second] != top.size) continue;
            sizes[first] = top.size;
            sizes[second] = 0;
            part_ids[first] = top.id;
            starts[first + top.size - 1] = first;
            offer(first);
            if (first) offer(starts[first - 1]);
        }
        for (uint32_t i = 0; i < total; i += sizes[i]) ids.push_back(part_ids[i]);
    }

    uint32_t pair(const uint8_t* bytes) const { return pairs_[static_cast<size_t>(bytes[0]) << 8 | bytes[1]]; }
};

}  // namespace nanochat
