// Learns byte-pair merges from counted chunks: repeatedly, the most frequent pair of neighbouring tokens becomes one
// token; among equals, the pair with the smallest ids.
//
// All chunks lie one after another in one flat array of places, a place for each byte, with a border between chunks.
// A token's first and last place carry its id, so its neighbours are found at the places just outside of it. A pair
// has a list of the boundaries where its two tokens meet, made once, when the pair first occurs. Entries only become
// stale: once another merge covers a boundary, the two ids are no longer beside it, since that merge rewrites one of
// the two places.
//
// After the step that made a pair, its count can only fall. So pairs below a threshold get no list; when no pair above
// it is left, the threshold falls and the array is scanned again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <queue>
#include <stdexcept>
#include <utility>
#include <vector>

#include "chunks.hpp"

namespace nanochat {

class Learner {
public:
    using Merge = std::pair<uint32_t, uint32_t>;

    // Empties `chunks`. merges: the most that will be asked for; there are never more than places. heavy: counts from
    // here on do not fit in a chunk's places and are looked up (a test lowers it).
    Learner(ChunkTable& chunks, size_t merges, uint32_t heavy = UINT32_MAX) : heavy_from_(heavy) {
        lay_out(chunks);
        chunks.clear();
        wanted_ = std::min(merges, places_.size());
        lengths_.assign(256, 1);
        lengths_.reserve(256 + wanted_);
        // On English text the last of V merges occurs about (pairs / 16 V) times; start somewhat below.
        threshold_ = std::max<int64_t>(1, total_ / static_cast<int64_t>(64 * (wanted_ + 1)));
        scan();
    }

    // Learns up to `count` further merges and returns how many there were; fewer only when no pair is left.
    size_t learn(size_t count) {
        const size_t goal = std::min(wanted_, merges_.size() + count), before = merges_.size();
        while (merges_.size() < goal && next()) {
        }
        return merges_.size() - before;
    }

    const std::vector<Merge>& merges() const { return merges_; }

private:
    static constexpr uint32_t kBorder = UINT32_MAX;
    static constexpr uint32_t kNone = UINT32_MAX;

    struct Place {
        uint32_t id;
        uint32_t weight;  // how often the chunk occurs, or heavy_from_
    };
    struct Pair {
        uint64_t key;
        int64_t count;
        std::vector<uint32_t> boundaries;
    };
    struct Candidate {
        int64_t count;
        uint64_t key;
        uint32_t pair;
        bool operator<(const Candidate& other) const {
            return count != other.count ? count < other.count : key > other.key;
        }
    };
    // What one step adds up for one neighbouring token.
    struct Sum {
        int64_t weight = 0;
        uint32_t boundaries = 0;
        uint32_t pair = kNone;
    };
    struct Meeting {
        uint32_t neighbour, boundary;
    };

    // Pair of ids -> number, with linear probing. A key is never removed.
    class Index {
    public:
        Index() : cells_(1 << 12, {kFree, 0}) {}

        uint32_t* find(uint64_t key) {
            for (size_t i = slot(key);; i = (i + 1) & (cells_.size() - 1)) {
                if (cells_[i].key == key) return &cells_[i].value;
                if (cells_[i].key == kFree) return nullptr;
            }
        }

        // The value of `key`, and whether the key is new; a new key gets `value`.
        std::pair<uint32_t, bool> insert(uint64_t key, uint32_t value) {
            if ((used_ + 1) * 2 > cells_.size()) grow();
            size_t i = slot(key);
            while (cells_[i].key != kFree) {
                if (cells_[i].key == key) return {cells_[i].value, false};
                i = (i + 1) & (cells_.size() - 1);
            }
            cells_[i] = {key, value};
            ++used_;
            return {value, true};
        }

    private:
        static constexpr uint64_t kFree = UINT64_MAX;
        struct Cell {
            uint64_t key;
            uint32_t value;
        };
        std::vector<Cell> cells_;
        size_t used_ = 0;

        size_t slot(uint64_t key) const {
            const uint64_t hash = key * 0x9E3779B97F4A7C15u;
            return (hash ^ hash >> 32) & (cells_.size() - 1);
        }

        void grow() {
            std::vector<Cell> old(cells_.size() * 2, {kFree, 0});
            old.swap(cells_);
            used_ = 0;
            for (const Cell& cell : old)
                if (cell.key != kFree) insert(cell.key, cell.value);
        }
    };

    size_t wanted_ = 0;
    uint32_t heavy_from_;
    std::vector<Place> places_;
    std::vector<std::pair<uint32_t, uint64_t>> heavy_;  // first place of a heavy chunk, and its count
    int64_t total_ = 0;                                 // pairs of neighbouring bytes in the text
    std::vector<uint32_t> lengths_;                     // of each token, in bytes
    std::vector<Merge> merges_;
    std::vector<Pair> pairs_;
    Index index_;
    std::priority_queue<Candidate> queue_;
    int64_t threshold_ = 1;
    std::vector<Sum> before_, after_;  // by neighbouring token
    std::vector<Meeting> met_before_, met_after_;
    std::vector<uint32_t> seen_before_, seen_after_;

    static uint64_t key_of(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }

    void lay_out(ChunkTable& chunks) {
        size_t size = 1;
        chunks.each([&](const Key& key, uint64_t) { size += key.size() > 1 ? key.size() + 1 : 0; });
        if (size >= UINT32_MAX) throw std::length_error("the distinct chunks of the text exceed 4 GB");
        places_.reserve(size);
        places_.push_back({kBorder, 0});
        chunks.each([&](const Key& key, uint64_t count) {
            const size_t length = key.size();
            if (length < 2) return;
            const uint32_t weight = count < heavy_from_ ? static_cast<uint32_t>(count) : heavy_from_;
            if (weight == heavy_from_) heavy_.push_back({static_cast<uint32_t>(places_.size()), count});
            const uint8_t* bytes = key.bytes();
            for (size_t i = 0; i < length; ++i) places_.push_back({bytes[i], weight});
            places_.push_back({kBorder, 0});
            total_ += static_cast<int64_t>(count * (length - 1));
        });
    }

    int64_t weight_at(uint32_t place) const {
        const uint32_t weight = places_[place].weight;
        if (weight != heavy_from_) [[likely]]
            return weight;
        const auto later = std::upper_bound(heavy_.begin(), heavy_.end(), place,
                                            [](uint32_t at, const auto& chunk) { return at < chunk.first; });
        return static_cast<int64_t>(std::prev(later)->second);
    }

    // Calls visit(key, boundary) for every two neighbouring tokens.
    template <class Visit>
    void each_meeting(Visit&& visit) const {
        for (uint32_t at = 1, size = static_cast<uint32_t>(places_.size()); at < size; ++at)  // over the border
            for (uint32_t left = places_[at].id; left != kBorder;) {
                at += lengths_[left];
                const uint32_t right = places_[at].id;
                if (right != kBorder) visit(key_of(left, right), at);
                left = right;
            }
    }

    // Finds all pairs that occur at least `threshold_` times.
    void scan() {
        Index index;
        struct Total {
            uint64_t key;
            int64_t weight;
            uint32_t boundaries;
        };
        std::vector<Total> totals;
        each_meeting([&](uint64_t key, uint32_t boundary) {
            const auto [number, fresh] = index.insert(key, static_cast<uint32_t>(totals.size()));
            if (fresh) totals.push_back({key, 0, 0});
            totals[number].weight += weight_at(boundary);
            ++totals[number].boundaries;
        });
        pairs_.clear();
        index_ = Index();
        queue_ = {};
        for (const Total& total : totals)
            if (total.weight >= threshold_) open(total.key, total.weight, total.boundaries);
        each_meeting([&](uint64_t key, uint32_t boundary) {
            if (const uint32_t* pair = index_.find(key)) pairs_[*pair].boundaries.push_back(boundary);
        });
    }

    uint32_t open(uint64_t key, int64_t count, uint32_t boundaries) {
        const uint32_t number = static_cast<uint32_t>(pairs_.size());
        pairs_.push_back({key, count, {}});
        pairs_.back().boundaries.reserve(boundaries);
        index_.insert(key, number);
        queue_.push({count, key, number});
        return number;
    }

    bool next() {
        for (;;) {
            if (queue_.empty()) {
                if (threshold_ == 1) return false;
                threshold_ = std::max<int64_t>(1, threshold_ / 8);
                scan();
                continue;
            }
            const Candidate top = queue_.top();
            queue_.pop();
            const int64_t count = pairs_[top.pair].count;
            if (count == top.count) {
                apply(top.pair);
                return true;
            }
            if (count >= threshold_) queue_.push({count, top.key, top.pair});
        }
    }

    static void note(std::vector<Sum>& sums, std::vector<uint32_t>& seen, std::vector<Meeting>& met, uint32_t neighbour,
                     uint32_t boundary, int64_t weight) {
        Sum& sum = sums[neighbour];
        if (!sum.boundaries++) seen.push_back(neighbour);
        sum.weight += weight;
        met.push_back({neighbour, boundary});
    }

    void apply(uint32_t number) {
        const uint64_t merged = pairs_[number].key;
        const uint32_t left = static_cast<uint32_t>(merged >> 32), right = static_cast<uint32_t>(merged);
        const uint32_t made = static_cast<uint32_t>(lengths_.size());
        const uint32_t left_size = lengths_[left], right_size = lengths_[right];
        const std::vector<uint32_t> boundaries = std::move(pairs_[number].boundaries);
        pairs_[number].count = 0;
        merges_.push_back({left, right});
        lengths_.push_back(left_size + right_size);
        before_.resize(made + 1);
        after_.resize(made + 1);

        int64_t twins = 0;  // weight of places where the token before is `made` too
        for (size_t i = 0; i < boundaries.size(); ++i) {
            if (i + kAhead < boundaries.size()) prefetch(&places_[boundaries[i + kAhead]]);
            const uint32_t boundary = boundaries[i];
            if (places_[boundary - 1].id != left || places_[boundary].id != right) continue;
            const int64_t weight = weight_at(boundary);
            const uint32_t first = boundary - left_size, end = boundary + right_size;
            places_[first].id = places_[end - 1].id = made;
            const uint32_t x = places_[first - 1].id, y = places_[end].id;
            if (x == made) {
                // The token before became `made` in this step, and counted our left token as its neighbour.
                twins += weight;
                note(before_, seen_before_, met_before_, made, first, weight);
            } else if (x != kBorder) {
                note(before_, seen_before_, met_before_, x, first, weight);
            }
            if (y != kBorder) note(after_, seen_after_, met_after_, y, end, weight);
        }
        settle(before_, seen_before_, met_before_, merged, [&](uint32_t x, int64_t weight) {
            return Change{x == made ? merged : key_of(x, left), key_of(x, made), weight};
        });
        settle(after_, seen_after_, met_after_, merged, [&](uint32_t y, int64_t weight) {
            return Change{key_of(right, y), key_of(made, y), y == left ? weight - twins : weight};
        });
    }

    static constexpr size_t kAhead = 12;

    struct Change {
        uint64_t lost, won;
        int64_t won_weight;
    };

    // Applies a step's sums of one side: lowers the counts of old pairs and makes the lists of new ones.
    template <class ChangeOf>
    void settle(std::vector<Sum>& sums, std::vector<uint32_t>& seen, std::vector<Meeting>& met, uint64_t merged,
                ChangeOf&& change_of) {
        for (const uint32_t neighbour : seen) {
            Sum& sum = sums[neighbour];
            const Change change = change_of(neighbour, sum.weight);
            if (change.lost != merged)
                if (const uint32_t* pair = index_.find(change.lost)) pairs_[*pair].count -= sum.weight;
            if (change.won_weight >= threshold_) sum.pair = open(change.won, change.won_weight, sum.boundaries);
        }
        for (const Meeting& meeting : met)
            if (const uint32_t pair = sums[meeting.neighbour].pair; pair != kNone)
                pairs_[pair].boundaries.push_back(meeting.boundary);
        for (const uint32_t neighbour : seen) sums[neighbour] = Sum();
        seen.clear();
        met.clear();
    }
};

}  // namespace nanochat
