// Threads that compute a step together. They wait for each other by spinning for half a millisecond, and then asleep.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
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

// Waits until `word` is no longer `old`. A thread that sleeps is woken in some 50 microseconds, a hundred times what a
// phase's end costs those that spin. So it sleeps only when a person, a client or another program lets it wait.
inline void await_change(std::atomic<uint32_t> &word, uint32_t old) {
    using Clock = std::chrono::steady_clock;
    for (auto until = Clock::now() + std::chrono::microseconds(500); Clock::now() < until;)
        for (int i = 0; i < 64; i++) {
            if (word.load(std::memory_order_acquire) != old) return;
            relax();
        }
    while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

class Pool {
  public:
    explicit Pool(int threads) : size(threads < 1 ? 1 : threads) {}
    ~Pool() { end(); }

    // Calls work(thread) on every thread, this one included, which may call `meet` equally often.
    void run(const std::function<void(int)> &work) {
        if (process() != owner) start();  // also in a forked child, where the threads are missing
        current = &work;
        begin.fetch_add(1, std::memory_order_release);
        begin.notify_all();
        work(0);
        meet();
    }

    // Returns when all threads have called it.
    void meet() {
        if (size == 1) return;
        uint32_t before = phase.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(size)) {
            arrived.store(0, std::memory_order_relaxed);
            phase.store(before + 1, std::memory_order_release);
            phase.notify_all();
        } else {
            await_change(phase, before);
        }
    }

    const int size;

  private:
    void start() {
        for (auto &thread : threads) thread.detach();  // the parent's
        threads.clear();
        arrived = 0;
        owner = process();
        for (int t = 1; t < size; t++)
            threads.emplace_back([this, t, seen = begin.load()]() mutable {
                while (true) {
                    await_change(begin, seen);
                    seen++;
                    if (!current) return;
                    (*current)(t);
                    meet();
                }
            });
    }

    void end() {
        if (process() != owner) {
            for (auto &thread : threads) thread.detach();
            return;
        }
        current = nullptr;
        begin.fetch_add(1, std::memory_order_release);
        begin.notify_all();
        for (auto &thread : threads) thread.join();
    }

    long owner = -1;
    std::vector<std::thread> threads;
    const std::function<void(int)> *current = nullptr;
    std::atomic<uint32_t> begin{0}, phase{0}, arrived{0};
};
