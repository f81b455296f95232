// Threads that compute a step together, phase by phase.
//
// A phase is a number of pieces of work that any thread may take. It ends when all pieces are done, not when all
// threads have come: a thread that the system lets wait, for the sake of other programs, holds nobody up unless it
// holds a piece.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
inline void relax() { _mm_pause(); }
#else
inline void relax() { std::this_thread::yield(); }
#endif
#if !defined(_WIN32)
#include <unistd.h>
inline long process() { return getpid(); }
#else
inline long process() { return 0; }
#endif

namespace nanochat {

// Waits until `word`, which was `old`, is something else, and returns that. A sleeping thread is woken in some 50
// microseconds, a hundred times what it takes to notice while spinning. So it sleeps only when there is more to wait
// for than another thread's piece, or the choice of the next token.
inline uint32_t await_change(std::atomic<uint32_t>& word, uint32_t old) {
    using Clock = std::chrono::steady_clock;
    uint32_t now;
    for (auto until = Clock::now() + std::chrono::microseconds(300); Clock::now() < until;)
        for (int i = 0; i < 64; i++) {
            if ((now = word.load(std::memory_order_acquire)) != old) return now;
            relax();
        }
    while ((now = word.load(std::memory_order_acquire)) == old) word.wait(old, std::memory_order_acquire);
    return now;
}

class Pool {
public:
    explicit Pool(int threads, int most_phases) : size(threads < 1 ? 1 : threads), phases(most_phases) {}
    ~Pool() { end(); }

    // One thread's way through the phases of a step.
    class Turn {
    public:
        Turn(Pool& pool, int thread) : thread(thread), pool(pool) {}

        // work(piece) for every piece below `count`, by whichever thread. All threads call this in the same order. It
        // must not throw: the others would wait for its piece for ever.
        template <typename Work>
        void share(int count, Work work) {
            Phase& phase = pool.phases[index++];
            uint32_t pieces = uint32_t(count), piece;
            while ((piece = phase.next.fetch_add(1, std::memory_order_relaxed)) < pieces) {
                work(int(piece));
                if (phase.done.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces) phase.done.notify_all();
            }
            uint32_t done = phase.done.load(std::memory_order_acquire);
            while (done != pieces) done = await_change(phase.done, done);
        }

        const int thread;  // below `size`

    private:
        Pool& pool;
        size_t index = 0;
    };

    // Lets all threads go through `work`. What it reads must not change before `settle` has been called.
    void run(const std::function<void(Turn&)>& work) {
        if (process() != owner) start();  // also in a forked child, where the threads are missing
        for (auto& phase : phases)
            phase.next.store(0, std::memory_order_relaxed), phase.done.store(0, std::memory_order_relaxed);
        current = &work;
        state.fetch_add(1);  // open
        if (size > 1) state.notify_all();
        Turn turn(*this, 0);
        work(turn);
        state.fetch_add(1);  // closed: who comes now is late
    }

    // Waits for threads that still have to notice that nothing is left to do.
    void settle() {
        if (process() != owner) return;
        uint32_t now = inside.load();
        while (now) now = await_change(inside, now);
    }

    const int size;

private:
    struct alignas(64) Phase {
        std::atomic<uint32_t> next{0}, done{0};
    };

    void start() {
        forget();
        state = inside = 0;  // the parent may have been in a step
        owner = process();
        try {
            for (int t = 1; t < size; t++)
                threads.emplace_back([this, t, seen = state.load()]() { wait_for_work(t, seen); });
        } catch (const std::system_error&) {
            // The system gives no more threads. Those that there are do the work.
        }
    }

    void wait_for_work(int thread, uint32_t seen) {
        while (true) {
            seen = await_change(state, seen);
            if (seen % 2 == 0) continue;
            inside.fetch_add(1);
            bool here = state.load() == seen, ends = here && !current;
            if (here && !ends) {
                Turn turn(*this, thread);
                (*current)(turn);
            }
            if (inside.fetch_sub(1) == 1) inside.notify_all();
            if (ends) return;
        }
    }

    // Lets go of a parent's threads. Nothing may be asked of them, not even to be on their own: by now, their memory
    // may be that of this process's new threads.
    void forget() {
        if (!threads.empty()) new std::vector<std::thread>(std::move(threads));
    }

    void end() {
        if (process() != owner) return forget();
        settle();
        current = nullptr;
        state.fetch_add(1);
        state.notify_all();
        for (auto& thread : threads) thread.join();
    }

    long owner = -1;
    std::vector<std::thread> threads;
    std::vector<Phase> phases;
    const std::function<void(Turn&)>* current = nullptr;
    std::atomic<uint32_t> state{0};   // odd: there is work
    std::atomic<uint32_t> inside{0};  // threads, but for the one that calls `run`, in the present work
};

}  // namespace nanochat
