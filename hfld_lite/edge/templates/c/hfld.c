/* From samples to an answer: checks, what the network reads, the network, probabilities. */

#include "hfld.h"
#include "hfld_config.h"
#include "hfld_math.h"
#include "hfld_network.h"
#include "hfld_view.h"

#if HFLD_WARNINGS && HFLD_DOUBT_WORK > HFLD_LENGTH + HFLD_VIEW_WORK
#define HFLD_WORK HFLD_DOUBT_WORK
#else
#define HFLD_WORK (HFLD_LENGTH + HFLD_VIEW_WORK)
#endif

const char *const hfld_class_names[HFLD_CLASSES] = {HFLD_NAMES};
const char *const hfld_answers[HFLD_CLASSES] = {HFLD_ANSWERS};

#ifdef HFLD_TRACE
void hfld_trace(void);
#endif

/* Nothing is kept from one call to the next, so all share one place. */
static union {
    float work[HFLD_WORK];
    uint32_t network[HFLD_NETWORK_BYTES / 4];
} hfld_arena;

static int predict(const hfld_source *source, int32_t count, float *probabilities)
{
    float logits[HFLD_CLASSES], largest, sum = 0.0f;
    int status;
    if (count != HFLD_SAMPLES)
        return HFLD_BAD_LENGTH;
    status = hfld_view(source, hfld_arena.work, hfld_arena.work + HFLD_LENGTH);
    if (status != HFLD_OK)
        return status;
#ifdef HFLD_TRACE
    hfld_trace(); /* a program that measures what comes before the network */
#endif
    hfld_network(&hfld_arena, logits);
    largest = logits[0];
    for (int i = 1; i < HFLD_CLASSES; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    for (int i = 0; i < HFLD_CLASSES; i++) {
        logits[i] = hfld_exp(logits[i] - largest);
        sum += logits[i];
    }
    for (int i = 0; i < HFLD_CLASSES; i++)
        probabilities[i] = logits[i] / sum;
    return HFLD_OK;
}

int hfld_predict(const float *samples, int32_t count, float *probabilities)
{
    const hfld_source source = {samples, 0};
    return predict(&source, count, probabilities);
}

int hfld_predict_int16(const int16_t *samples, int32_t count, float *probabilities)
{
    const hfld_source source = {0, samples};
    return predict(&source, count, probabilities);
}

int hfld_answer(const float *probabilities)
{
    float normal = 0.0f, doubt;
    int best = 0;
    for (int i = 0; i < HFLD_CLASSES; i++) {
        best = probabilities[i] > probabilities[best] ? i : best;
        normal += hfld_normal[i] ? probabilities[i] : 0.0f;
    }
    doubt = 1.0f - (HFLD_NORMALS ? normal : probabilities[best]);
    return doubt >= HFLD_LIMIT && hfld_doubtable[best] ? HFLD_UNSURE : best;
}

#if HFLD_WARNINGS
static int doubt(const hfld_source *source, int32_t count)
{
    return count == HFLD_SAMPLES ? hfld_doubt(source, hfld_arena.work) : HFLD_BAD_LENGTH;
}

int hfld_warnings(const float *samples, int32_t count)
{
    const hfld_source source = {samples, 0};
    return doubt(&source, count);
}

int hfld_warnings_int16(const int16_t *samples, int32_t count)
{
    const hfld_source source = {0, samples};
    return doubt(&source, count);
}
#endif
