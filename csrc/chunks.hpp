// How often each distinct chunk of text occurs.
//
// One cache line holds two slots: a chunk of up to 23 bytes lies in the slot itself, beside its count, so that the
// common case is one memory access. Additions wait in a small queue while their slots are fetched into the cache.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace nanochat {

static_assert(std::endian::native == std::endian::little, "chunk keys are read as little-endian words");

constexpr size_t kInlineSize = 23;

// Asks for memory that will be written soon.
inline void prefetch([[maybe_unused]] const void* memory) {
#ifdef __GNUC__
    __builtin_prefetch(memory, 1);
#endif
}

// A chunk as three words. Short: its bytes, zero padded, and its size in the last byte. Long: hash, address of the
// bytes, and the size below a last byte of 0xFF. An empty slot has c == 0.
struct Key {
    uint64_t a, b, c;

    bool is_long() const { return c >> 56 == 0xFF; }
    size_t size() const { return is_long() ? c & 0xFFFFFFFFFFFFFF : c >> 56; }
    const uint8_t* bytes() const {
        return is_long() ? reinterpret_cast<const uint8_t*>(b) : reinterpret_cast<const uint8_t*>(this);
    }
};

inline uint64_t mix(uint64_t hash, uint64_t word) {
    hash = (std::rotl(hash, 29) ^ word) * 0x9E3779B97F4A7C15u;
    return hash;
}

inline uint64_t hash_key(const Key& key) {
    if (key.is_long()) return key.a;
    const uint64_t hash = mix(mix(mix(0, key.a), key.b), key.c);
    return hash ^ hash >> 32;
}

// `readable`: bytes that may be read from `chunk` on, at least `size`.
inline Key make_key(const uint8_t* chunk, size_t size, size_t readable) {
    Key key{0, 0, 0};
    if (size <= kInlineSize) {
        if (readable >= sizeof(Key)) {
            static constexpr auto kept = [](size_t bytes) { return bytes >= 8 ? ~0ull : (1ull << 8 * bytes) - 1; };
            std::memcpy(&key, chunk, sizeof(Key));
            if (size <= 8) {
                key.a &= kept(size);
                key.b = key.c = 0;
            } else {
                key.b &= kept(size - 8);
                key.c &= size <= 16 ? 0 : kept(size - 16);
            }
        } else {
            std::memcpy(&key, chunk, size);
        }
        key.c |= static_cast<uint64_t>(size) << 56;
        return key;
    }
    uint64_t hash = size;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, chunk + at, size - at < 8 ? size - at : 8);
        hash = mix(hash, word);
    }
    key.a = hash ^ hash >> 32;
    key.b = reinterpret_cast<uint64_t>(chunk);
    key.c = 0xFFull << 56 | size;
    return key;
}

inline bool same(const Key& x, const Key& y) {
    if (x.c != y.c || x.a != y.a) return false;
    return x.is_long() ? std::memcmp(x.bytes(), y.bytes(), x.size()) == 0 : x.b == y.b;
}

class alignas(64) ChunkTable {
public:
    struct alignas(32) Slot {
        Key key;
        uint64_t count;
    };

    ChunkTable() : slots_(kFirstSize) {}

    // Counts one occurrence; the bytes need only live until the call returns.
    void add(const uint8_t* chunk, size_t size, size_t readable) {
        const Key key = make_key(chunk, size, readable);
        if (size > kInlineSize) {
            add(key, 1);
            return;
        }
        const uint64_t hash = hash_key(key);
        prefetch(&slots_[hash & (slots_.size() - 1)]);
        waiting_[waiting_count_++] = {key, hash};
        if (waiting_count_ == waiting_.size()) flush();
    }

    // Adds another table's counts, and empties that table.
    void absorb(ChunkTable& other) {
        flush();
        other.flush();
        if (other.used_ > used_) std::swap(*this, other);
        // Grow before adding: the other's slots come in order of their hashes, and would crowd the first half.
        while ((used_ + other.used_) * 8 > slots_.size() * 5) grow();
        for (auto& block : other.blocks_) blocks_.push_back(std::move(block));
        for (const Slot& slot : other.slots_)
            if (slot.key.c) place(slot.key, hash_key(slot.key), slot.count, false);
        other.clear();
    }

    void clear() {
        *this = ChunkTable();
    }

    size_t size() {
        flush();
        return used_;
    }

    template <class Visit>
    void each(Visit&& visit) {
        flush();
        for (const Slot& slot : slots_)
            if (slot.key.c) visit(slot.key, slot.count);
    }

private:
    static constexpr size_t kFirstSize = 1 << 12;
    static constexpr size_t kBlock = 1 << 16;

    std::vector<Slot> slots_;  // a power of two of them, at most 5/8 used
    size_t used_ = 0;
    std::array<std::pair<Key, uint64_t>, 64> waiting_;
    size_t waiting_count_ = 0;
    std::vector<std::unique_ptr<uint8_t[]>> blocks_;  // bytes of long chunks
    uint8_t* free_ = nullptr;
    size_t free_size_ = 0;

    void flush() {
        const size_t count = std::exchange(waiting_count_, 0);
        if ((used_ + count) * 8 > slots_.size() * 5) grow();
        for (size_t i = 0; i < count; ++i) place(waiting_[i].first, waiting_[i].second, 1, true);
    }

    void add(const Key& key, uint64_t count) {
        if ((used_ + 1) * 8 > slots_.size() * 5) grow();
        place(key, hash_key(key), count, true);
    }

    // copy: whether a long chunk's bytes must be copied to our blocks
    void place(const Key& key, uint64_t hash, uint64_t count, bool copy) {
        Slot* slot = find(key, hash);
        if (!slot->key.c) {
            slot->key = key;
            if (copy && key.is_long()) slot->key.b = reinterpret_cast<uint64_t>(keep(key.bytes(), key.size()));
            ++used_;
        }
        slot->count += count;
    }

    Slot* find(const Key& key, uint64_t hash) {
        const size_t mask = slots_.size() - 1;
        size_t i = hash & mask;
        while (slots_[i].key.c && !same(slots_[i].key, key)) i = (i + 1) & mask;
        return &slots_[i];
    }

    void grow() {
        std::vector<Slot> old(slots_.size() * 2);
        old.swap(slots_);
        const size_t mask = slots_.size() - 1;
        for (const Slot& slot : old)
            if (slot.key.c) {
                size_t i = hash_key(slot.key) & mask;
                while (slots_[i].key.c) i = (i + 1) & mask;
                slots_[i] = slot;
            }
    }

    const uint8_t* keep(const uint8_t* bytes, size_t size) {
        if (size > free_size_) {
            const size_t block = size > kBlock ? size : kBlock;
            blocks_.push_back(std::make_unique_for_overwrite<uint8_t[]>(block));
            free_ = blocks_.back().get();
            free_size_ = block;
        }
        uint8_t* kept = static_cast<uint8_t*>(std::memcpy(free_, bytes, size));
        free_ += size;
        free_size_ -= size;
        return kept;
    }
};

}  // namespace nanochat
