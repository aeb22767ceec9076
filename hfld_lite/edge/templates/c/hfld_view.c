/* From samples to what the network reads, and when to distrust a recording: see hfld_view.h.
 *
 * The numbers of one run come from hfld_config.h, and only what they need is compiled:
 *
 *   HFLD_POINTS    of the Fourier transform, 0 if the view is the samples themselves
 *   HFLD_WINDOW    samples of a Hann window, 0 if the whole recording is transformed once
 *   HFLD_DECIBELS  whether the view is in dB below a peak, or scaled to [0, 1]
 *   HFLD_DOUBTS    whether there are limits for warnings
 *   HFLD_RADIX_2, HFLD_RADIX_4, HFLD_RADIX_ODD   which factors the transforms' lengths have
 */
#include "hfld_view.h"

#include <math.h>

#include "hfld_config.h"
#include "hfld_math.h"

static float hfld_at(const hfld_source *source, int32_t i)
{
    return source->floats ? source->floats[i] : (float)source->ints[i] * (1.0f / 32768.0f);
}

/* The lowest and the highest of count values; a status. */
static int hfld_range(const hfld_source *source, int32_t count, float *low, float *high)
{
    *low = *high = hfld_at(source, 0);
    for (int32_t i = 0; i < count; i++) {
        const float x = hfld_at(source, i);
        if (!(fabsf(x) <= 3.40282347e38f)) { /* NaN is not less than anything */
            return HFLD_NOT_FINITE;
        }
        *low = x < *low ? x : *low;
        *high = x > *high ? x : *high;
    }
    return *low < *high ? HFLD_OK : HFLD_CONSTANT;
}

#if HFLD_POINTS || HFLD_DOUBTS

/* A circle of `points` steps, and how a Fourier transform of so many points is done. cos and sin of
 * a multiple of 2^shift steps stand in coarse, cos - 1 and sin of fewer steps in fine: two short
 * tables for half the circle. strides[i] is points / (the first i + 1 factors); it ends 1, 0. */
typedef struct {
    int32_t points;
    int shift;
    const float *coarse;
    const float *fine;
    const int32_t *strides;
} hfld_wave;

typedef struct {
    float re;
    float im;
} hfld_complex;

/* cos and sin of 2 pi step / points, for 0 <= step <= points / 2. */
static hfld_complex hfld_turn(const hfld_wave *wave, int32_t step)
{
    const float *a = wave->coarse + 2 * (step >> wave->shift);
    const float *b = wave->fine + 2 * (step & ((1 << wave->shift) - 1));
    /* b is small, so that its rounding is, too: within 1e-7 */
    const hfld_complex turn = {a[0] + (a[0] * b[0] - a[1] * b[1]),
                               a[1] + (a[1] * b[0] + a[0] * b[1])};
    return turn;
}

/* Samples begin ... begin + count - 1 less the mean, times a Hann window if there is one, then
 * zeros: in the order in which the transform reads them, where the first digit counts fastest. */
static void hfld_load(const hfld_source *source, int32_t begin, int32_t count, float mean,
                      const hfld_wave *window, const hfld_wave *wave, float *x)
{
    int32_t index = 0;
    for (int32_t i = 0; i < wave->points; i++) {
        float value = 0.0f;
        if (index < count) {
            value = hfld_at(source, begin + index) - mean;
            if (window) {
                const int32_t half = 2 * index > count ? count - index : index;
                value *= 0.5f - 0.5f * hfld_turn(window, half).re;
            }
        }
        x[i] = value;
        int32_t whole = wave->points;
        const int32_t *stride = wave->strides;
        for (index += *stride; index >= whole; index += *stride) { /* carry */
            index -= whole;
            whole = *stride++;
        }
    }
}

/* A Fourier transform of real values, in place. Each pass makes transforms of r * m points from r
 * of m points. One of n points has Re X_k at k, 0 <= k <= n / 2, and Im X_k at n - k, 0 < k < n / 2.
 * Source: Sorensen et al., "Real-valued fast Fourier transform algorithms", 1987. */

/* Multiply X_k of the l-th of r transforms by e^(-2 pi i k l / (r m)), for 0 < k < m / 2. */
static void hfld_rotate(const hfld_wave *wave, float *x, int32_t m, int32_t r)
{
    const int32_t step = wave->points / (m * r);
    for (int32_t l = 1; l < r; l++) {
        for (int32_t k = 1; 2 * k < m; k++) {
            const hfld_complex by = hfld_turn(wave, l * k * step);
            for (int32_t at = l * m; at < wave->points; at += m * r) {
                const float re = x[at + k], im = x[at + m - k];
                x[at + k] = re * by.re + im * by.im;
                x[at + m - k] = im * by.re - re * by.im;
            }
        }
    }
}

#if HFLD_RADIX_2
/* m is odd: the config puts this factor after the odd ones and before those of 4. */
static void hfld_pass_2(const hfld_wave *wave, float *x, int32_t m)
{
    for (float *p = x; p < x + wave->points; p += 2 * m) {
        const float first = p[0], last = p[m];
        p[0] = first + last;
        p[m] = first - last;
        for (int32_t k = 1; 2 * k < m; k++) {
            const float a = p[k], b = p[m - k], c = p[m + k], d = p[2 * m - k];
            p[k] = a + c;
            p[2 * m - k] = b + d;
            p[m - k] = a - c;
            p[m + k] = d - b;
        }
    }
}
#endif

#if HFLD_RADIX_4
static void hfld_pass_4(const hfld_wave *wave, float *x, int32_t m)
{
    const int32_t half = m / 2;
    for (float *p = x; p < x + wave->points; p += 4 * m) {
        const float a = p[0] + p[2 * m], b = p[m] + p[3 * m];
        p[3 * m] -= p[m];
        p[m] = p[0] - p[2 * m];
        p[0] = a + b;
        p[2 * m] = a - b;
        for (int32_t k = 1; 2 * k < m; k++) {
            const float even_re = p[k] + p[2 * m + k], even_im = p[m - k] + p[3 * m - k];
            const float rest_re = p[k] - p[2 * m + k], rest_im = p[m - k] - p[3 * m - k];
            const float odd_re = p[m + k] + p[3 * m + k], odd_im = p[2 * m - k] + p[4 * m - k];
            const float turn_re = p[m + k] - p[3 * m + k], turn_im = p[2 * m - k] - p[4 * m - k];
            p[k] = even_re + odd_re;
            p[4 * m - k] = even_im + odd_im;
            p[2 * m - k] = even_re - odd_re;
            p[2 * m + k] = odd_im - even_im;
            p[m + k] = rest_re + turn_im;
            p[3 * m - k] = rest_im - turn_re;
            p[m - k] = rest_re - turn_im;
            p[3 * m + k] = -rest_im - turn_re;
        }
        if (2 * half == m && half) { /* k = m / 2 is real and not yet multiplied */
            float *q = p + half;
            const float c = 0.707106781f * (q[m] - q[3 * m]), d = 0.707106781f * (q[m] + q[3 * m]);
            q[m] = q[0] - c;
            q[0] += c;
            q[3 * m] = -q[2 * m] - d;
            q[2 * m] -= d;
        }
    }
}
#endif

#if HFLD_RADIX_ODD
/* Any odd r, by the sums and differences of the l-th and the (r - l)-th; so is m. Behind x there is
 * room for 4 r values. Its time grows with r, so that a large prime factor is slow. */
static void hfld_pass_odd(const hfld_wave *wave, float *x, int32_t m, int32_t r)
{
    float *cosine = x + wave->points, *sine = cosine + r, *pairs = sine + r;
    for (int32_t j = 0; j < r; j++) {
        const int32_t half = 2 * j > r ? r - j : j;
        const hfld_complex root = hfld_turn(wave, half * (wave->points / r));
        cosine[j] = root.re;
        sine[j] = half == j ? root.im : -root.im;
    }
    for (float *p = x; p < x + wave->points; p += r * m) {
        for (int32_t k = 0; 2 * k < m; k++) {
            const hfld_complex first = {p[k], k ? p[m - k] : 0.0f};
            for (int32_t l = 1; 2 * l < r; l++) {
                const float *a = p + l * m, *b = p + (r - l) * m;
                const float a_im = k ? a[m - k] : 0.0f, b_im = k ? b[m - k] : 0.0f;
                float *pair = pairs + 4 * (l - 1);
                pair[0] = a[k] + b[k];
                pair[1] = a_im + b_im;
                pair[2] = a[k] - b[k];
                pair[3] = a_im - b_im;
            }
            for (int32_t q = 0; 2 * q < r; q++) {
                hfld_complex sum = first, turned = {0.0f, 0.0f};
                int32_t j = 0;
                for (const float *pair = pairs; pair < pairs + 2 * (r - 1); pair += 4) {
                    j += q;
                    j -= j >= r ? r : 0;
                    sum.re += cosine[j] * pair[0];
                    sum.im += cosine[j] * pair[1];
                    turned.re += sine[j] * pair[3];
                    turned.im += sine[j] * pair[2];
                }
                const int32_t above = q * m + k, below = q * m - k;
                p[above] = sum.re + turned.re;
                if (above) {
                    p[r * m - above] = sum.im - turned.im;
                }
                if (q && k) {
                    p[below] = sum.re - turned.re;
                    p[r * m - below] = -sum.im - turned.im;
                }
            }
        }
    }
}
#endif

static void hfld_fourier(const hfld_wave *wave, float *x)
{
    int32_t m = 1, rest = wave->points;
    for (const int32_t *stride = wave->strides; *stride; stride++) {
        const int32_t r = rest / *stride;
        hfld_rotate(wave, x, m, r);
#if HFLD_RADIX_4
        if (r == 4) {
            hfld_pass_4(wave, x, m);
        }
#endif
#if HFLD_RADIX_2
        if (r == 2) {
            hfld_pass_2(wave, x, m);
        }
#endif
#if HFLD_RADIX_ODD
        if (r % 2) {
            hfld_pass_odd(wave, x, m, r);
        }
#endif
        m *= r;
        rest = *stride;
    }
}

/* |X_k|^2 of the n values that hfld_fourier leaves. */
static float hfld_power(const float *x, int32_t n, int32_t k)
{
    const float re = x[k], im = k && 2 * k < n ? x[n - k] : 0.0f;
    return re * re + im * im;
}

#endif

#if HFLD_POINTS

static const hfld_wave hfld_view_wave = {HFLD_VIEW_WAVE};

#if HFLD_CENTRED
/* The mean of the samples; what is lost in each addition is carried on (Kahan, 1965). */
static float hfld_mean(const hfld_source *source)
{
    float sum = 0.0f, lost = 0.0f;
    for (int32_t i = 0; i < HFLD_VIEW_SAMPLES; i++) {
        const float term = hfld_at(source, i) - lost, next = sum + term;
        lost = (next - sum) - term;
        sum = next;
    }
    return sum / (float)HFLD_VIEW_SAMPLES;
}
#endif

/* Divide sums of `by` terms by that number; the last ones may have fewer, so that there are `terms`
 * in all. `beside` sums have the same terms, and each term is itself a sum of `each`. */
static void hfld_means(float *sums, int32_t beside, int32_t terms, int32_t by, int32_t each)
{
    for (; terms > 0; terms -= by) {
        for (int32_t i = 0; i < beside; i++) {
            *sums++ /= (float)((terms < by ? terms : by) * each);
        }
    }
}

/* Magnitudes of the recording, or powers of its windows, and means of neighbours. */
static void hfld_spectrum(const hfld_source *source, float *out, float *work)
{
#if HFLD_WINDOW
    static const hfld_wave shape = {HFLD_WINDOW_WAVE};
    const hfld_wave *const window = &shape;
    float *const bands = out + HFLD_LENGTH - HFLD_FRAMES * HFLD_BANDS;
#else
    const hfld_wave *const window = 0;
#endif
#if HFLD_CENTRED
    const float mean = hfld_mean(source);
#else
    const float mean = 0.0f;
#endif
    for (int32_t i = 0; i < HFLD_LENGTH; i++) {
        out[i] = 0.0f;
    }
    for (int32_t i = 0; i < HFLD_WINDOWS; i++) {
        hfld_load(source, i * (HFLD_TAKEN / 2), HFLD_TAKEN, mean, window, &hfld_view_wave, work);
        hfld_fourier(&hfld_view_wave, work);
#if HFLD_WINDOW
        float *const band = bands + i / HFLD_FRAME * HFLD_BANDS;
        int32_t edge = 0; /* the last one that is not above k: where a triangle begins or ends */
        for (int32_t k = 0; k < HFLD_KEPT; k++) {
            const float power = hfld_power(work, HFLD_POINTS, k);
            while ((float)k >= hfld_edges[edge + 1]) {
                edge++;
            }
            const float rising = power * (((float)k - hfld_edges[edge]) * hfld_slopes[edge]);
            out[k / HFLD_AVERAGED] += power;
            if (edge < HFLD_BANDS) {
                band[edge] += rising;
            }
            if (edge) {
                band[edge - 1] += power - rising;
            }
        }
#else
        for (int32_t k = 0; k < HFLD_KEPT; k++) {
            out[k / HFLD_AVERAGED] += sqrtf(hfld_power(work, HFLD_POINTS, k));
        }
#endif
    }
    hfld_means(out, 1, HFLD_KEPT, HFLD_AVERAGED, HFLD_WINDOWS);
#if HFLD_WINDOW
    hfld_means(bands, HFLD_BANDS, HFLD_WINDOWS, HFLD_FRAME, 1);
#endif
}

#endif

int hfld_view(const hfld_source *source, float *out, float *work)
{
    const hfld_source seen = {out, 0};
    float low, high;
    int status = hfld_range(source, HFLD_SAMPLES, &low, &high);
#if HFLD_VIEW_SAMPLES < HFLD_SAMPLES
    if (status == HFLD_OK) {
        status = hfld_range(source, HFLD_VIEW_SAMPLES, &low, &high);
    }
#endif
    if (status != HFLD_OK) {
        return status;
    }
#if HFLD_POINTS
    hfld_spectrum(source, out, work);
#else
    (void)work;
    for (int32_t i = 0; i < HFLD_LENGTH; i++) {
        out[i] = hfld_at(source, i);
    }
#endif
    status = hfld_range(&seen, HFLD_LENGTH, &low, &high);
    if (status != HFLD_OK) {
        return status;
    }
#if HFLD_DECIBELS
    /* HFLD_BASE stands for 0 dB; where the level is removed, the peak is 1 */
    const float top = HFLD_BASE > 0.0f ? HFLD_SCALE * hfld_log(high / HFLD_BASE) : 1.0f;
    for (int32_t i = 0; i < HFLD_LENGTH; i++) {
        const float share = out[i] / high;
        out[i] = HFLD_SCALE * hfld_log(share > HFLD_LEAST ? share : HFLD_LEAST) + top;
    }
#else
    const float span = high - low;
    if (!(span <= 3.40282347e38f)) {
        return HFLD_NOT_FINITE;
    }
    for (int32_t i = 0; i < HFLD_LENGTH; i++) {
        out[i] = (out[i] - low) / span;
    }
#endif
    return HFLD_OK;
}

#if HFLD_DOUBTS

/* Levels of bands of the whole recording in dB of its power, less those of a class in training, in
 * units of their deviation there: the root mean square, to the nearest class. */
static float hfld_novelty(const hfld_source *source, float *work)
{
    static const hfld_wave wave = {HFLD_DOUBT_WAVE};
    float levels[HFLD_LEVELS], total = 0.0f, nearest = 0.0f;
    hfld_load(source, 0, HFLD_SAMPLES, 0.0f, 0, &wave, work);
    hfld_fourier(&wave, work);
    for (int32_t b = 0; b < HFLD_LEVELS; b++) {
        int32_t k = hfld_level_edges[b];
        float power = 0.0f;
        do { /* a short recording has bands of one value that two share */
            power += hfld_power(work, HFLD_SAMPLES, k);
        } while (++k < hfld_level_edges[b + 1]);
        levels[b] = power;
        total += power;
    }
    total = total > 1e-30f ? total : 1e-30f;
    for (int32_t b = 0; b < HFLD_LEVELS; b++) {
        levels[b] = 4.34294482f * hfld_log(levels[b] / total + 1e-9f); /* 10 / ln 10 */
    }
    for (int32_t c = 0; c < HFLD_LEVEL_MEANS; c++) {
        float squares = 0.0f;
        for (int32_t b = 0; b < HFLD_LEVELS; b++) {
            const float z = (levels[b] - hfld_level_means[c][b])
                            * hfld_level_scales[c % HFLD_LEVEL_SCALES][b];
            squares += z * z;
        }
        const float score = sqrtf(squares / (float)HFLD_LEVELS);
        nearest = c && score >= nearest ? nearest : score;
    }
    return nearest;
}

/* Whether HFLD_RUN samples on end are at the lowest or highest value. */
static int hfld_clipped(const hfld_source *source, float low, float high)
{
    int32_t run = 0;
    for (int32_t i = 0; i < HFLD_SAMPLES && run < HFLD_RUN; i++) {
        const float x = hfld_at(source, i);
        run = x <= low || x >= high ? run + 1 : 0;
    }
    return run >= HFLD_RUN;
}

#endif

#if HFLD_WARNINGS
int hfld_doubt(const hfld_source *source, float *work)
{
    float low, high;
    const int status = hfld_range(source, HFLD_SAMPLES, &low, &high);
#if HFLD_DOUBTS
    if (status == HFLD_OK) {
        return (hfld_novelty(source, work) <= HFLD_NOVELTY ? 0 : HFLD_NOVEL) /* NaN is novel */
               | (hfld_clipped(source, low, high) ? HFLD_CLIPPED : 0);
    }
#else
    (void)work;
#endif
    return status;
}
#endif
