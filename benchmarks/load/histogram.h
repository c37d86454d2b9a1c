/* A latency histogram in the manner of HdrHistogram: 64 steps per power of two, so any percentile is
 * known to 1.6 %, in 30 kB however many values are noted. Values are nanoseconds. */
#ifndef HEADRACE_HISTOGRAM_H
#define HEADRACE_HISTOGRAM_H

#include <stdint.h>

#define STEP_BITS 6
#define STEPS (1 << STEP_BITS)
#define SLOTS ((64 - STEP_BITS + 1) * STEPS)

struct histogram {
    uint64_t slots[SLOTS];
    uint64_t count, total, largest;
};

static inline void histogram_note(struct histogram *histogram, uint64_t value) {
    unsigned slot;
    if (value < STEPS) {
        slot = (unsigned)value;
    } else {
        unsigned exponent = 63u - (unsigned)__builtin_clzll(value);
        slot = (exponent - STEP_BITS + 1) * STEPS + ((value >> (exponent - STEP_BITS)) & (STEPS - 1));
    }
    histogram->slots[slot]++;
    histogram->count++;
    histogram->total += value;
    if (value > histogram->largest) histogram->largest = value;
}

/* The middle of the slot that holds the given share (0 to 1) of all values; 0 when there are none. */
static inline uint64_t histogram_at(const struct histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)(share * (double)histogram->count + 0.5), seen = 0;
    if (histogram->count == 0) return 0;
    if (wanted < 1) wanted = 1;
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        seen += histogram->slots[slot];
        if (seen < wanted) continue;
        if (slot < STEPS) return slot;
        unsigned exponent = slot / STEPS + STEP_BITS - 1;
        uint64_t low = (1ull << exponent) + ((uint64_t)(slot % STEPS) << (exponent - STEP_BITS));
        uint64_t middle = low + (1ull << (exponent - STEP_BITS)) / 2;
        return middle < histogram->largest ? middle : histogram->largest;
    }
    return histogram->largest;
}

#endif
