/* Runs hfld_predict on the recordings of the file "in", and writes what it answers to "out".
 *
 * "in": HFLD_SAMPLES floats a recording. "out": the ticks of a loop of KNOWN_LOOP instructions, then
 * a `record` for each recording.
 */
#include "chip.h"
#include "hfld.h"

enum { KNOWN_LOOP = 1000000 };
#define UNUSED_STACK 0xA5A5A5A5u

typedef struct {
    int32_t status, answer, warnings;
    uint32_t ticks;       /* of hfld_predict */
    uint32_t view_ticks;  /* of it before the network */
    uint32_t stack_bytes; /* of hfld_predict */
    float probabilities[HFLD_CLASSES];
} record;

static float recording[HFLD_SAMPLES];
static record result;
static uint32_t begin; /* of hfld_predict */

static inline volatile uint32_t *at(uint32_t address)
{
    return (volatile uint32_t *)address;
}

/* A timer of the board that counts 32 bits upwards; one instruction is 1 ns of the emulator's time. */
#if defined(TIMER_CMSDK)
static void start(void)
{
    *at(TIMER_CMSDK + 0x8u) = 0xFFFFFFFFu; /* RELOAD */
    *at(TIMER_CMSDK) = 1;                  /* CTRL: enable */
}
static inline uint32_t now(void)
{
    return ~*at(TIMER_CMSDK + 0x4u); /* VALUE counts downwards */
}
#elif defined(TIMER_NRF51)
static void start(void)
{
    *at(TIMER_NRF51 + 0x508u) = 3; /* BITMODE: 32 bits */
    *at(TIMER_NRF51 + 0x510u) = 0; /* PRESCALER: 16 MHz */
    *at(TIMER_NRF51) = 1;          /* START */
}
static inline uint32_t now(void)
{
    *at(TIMER_NRF51 + 0x40u) = 1; /* CAPTURE */
    return *at(TIMER_NRF51 + 0x540u);
}
#elif defined(TIMER_SSE300)
static void start(void)
{
    *at(TIMER_SSE300) = 1; /* CNTCR: enable */
}
static inline uint32_t now(void)
{
    return *at(TIMER_SSE300 + 0x8u); /* CNTCV */
}
#endif

static uint32_t ticks_of_known_loop(void)
{
    uint32_t left = KNOWN_LOOP / 2;
    const uint32_t before = now();
    __asm__ volatile(".syntax unified\n1: subs %0, #1\n bne 1b" : "+l"(left)::"cc");
    return now() - before;
}

/* hfld_predict calls this before the network. */
void hfld_trace(void);
void hfld_trace(void)
{
    result.view_ticks = now() - begin;
}

/* Not inlined, so that what it stores lies above what it paints and measures. */
__attribute__((noinline)) static void measured_predict(void)
{
    uint32_t *sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    for (volatile uint32_t *word = stack_bottom; word < sp; word++) {
        *word = UNUSED_STACK;
    }
    begin = now();
    result.status = hfld_predict(recording, HFLD_SAMPLES, result.probabilities);
    result.ticks = now() - begin;
    const volatile uint32_t *word = stack_bottom;
    while (word < sp && *word == UNUSED_STACK) {
        word++;
    }
    if (word == stack_bottom) {
        host_exit(EXIT_STACK);
    }
    result.stack_bytes = (uint32_t)((uintptr_t)sp - (uintptr_t)word);
}

int main(void)
{
    const uint32_t in = host_open("in", 2, 1);
    const uint32_t out = host_open("out", 3, 5);
    start();
    const uint32_t known = ticks_of_known_loop();
    if (host_write(out, &known, sizeof known) != 0) {
        return EXIT_FILES;
    }
    while (host_read(in, recording, sizeof recording) == 0) {
        measured_predict();
        result.answer =
            result.status == HFLD_OK ? hfld_answer(result.probabilities) : HFLD_UNSURE;
#if !defined(HFLD_WARNINGS) || HFLD_WARNINGS
        result.warnings = hfld_warnings(recording, HFLD_SAMPLES);
#endif
        if (host_write(out, &result, sizeof result) != 0) {
            return EXIT_FILES;
        }
    }
    return EXIT_DONE;
}
