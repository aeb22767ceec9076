/* exp and log in float, of + - * / and integer operations only: the same bits on every machine.
 *
 * C libraries round expf and logf differently; IEEE 754 fixes the rounding of the four operations.
 * No compiler may fuse a product and a sum into one operation, which would round once less.
 */
#ifndef HFLD_MATH_H
#define HFLD_MATH_H

#include <stdint.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off") /* gcc fuses unless -std=c99 is given */
#endif

typedef union {
    float value;
    uint32_t bits;
} hfld_bits;

/* e^x: x = k ln 2 + r with |r| <= ln 2 / 2, and e^r by its series up to r^7 / 7! (left out: 6e-9).
 * Relative error below 1.2e-7 for -87 <= x <= 88; 0 below -87, 2^127 above 88. */
static inline float hfld_exp(float x)
{
    if (x < -87.0f) {
        return 0.0f;
    }
    if (x > 88.0f) {
        return 1.70141183e38f;
    }
    const int32_t k = (int32_t)(x * 1.44269504f + (x < 0.0f ? -0.5f : 0.5f));
    const float whole = (float)k;
    /* ln 2 in two parts; the first has few bits, so that whole times it is exact */
    const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float series = 1.98412698e-4f;
    series = series * r + 1.38888889e-3f;
    series = series * r + 8.33333333e-3f;
    series = series * r + 4.16666667e-2f;
    series = series * r + 1.66666667e-1f;
    series = series * r + 0.5f;
    const hfld_bits power = {.bits = (uint32_t)(k + 127) << 23}; /* 2^k */
    return (1.0f + (r + r * r * series)) * power.value;
}

/* ln x for finite x > 0: x = 2^k m with sqrt(1/2) <= m < sqrt(2), and with s = (m - 1) / (m + 1)
 * ln m = 2 atanh s = 2 s (1 + s^2/3 + s^4/5 + s^6/7 + s^8/9) (left out: 2e-9).
 * Relative error below 2e-7. */
static inline float hfld_log(float x)
{
    int32_t k = -127;
    if (x < 1.17549435e-38f) { /* few bits are left in such a number */
        x *= 8388608.0f;
        k -= 23;
    }
    hfld_bits number = {.value = x};
    number.bits += 0x3f800000u - 0x3f3504f3u; /* 1 and sqrt(1/2) as bits */
    k += (int32_t)(number.bits >> 23);
    number.bits = (number.bits & 0x007fffffu) + 0x3f3504f3u;
    const float m = number.value, whole = (float)k;
    const float s = (m - 1.0f) / (m + 1.0f), square = s * s;
    float series = 1.11111111e-1f;
    series = series * square + 1.42857143e-1f;
    series = series * square + 0.2f;
    series = series * square + 3.33333333e-1f;
    const float part = 2.0f * s + 2.0f * s * square * series;
    return (part - whole * 2.12194440e-4f) + whole * 0.693359375f;
}

#endif
