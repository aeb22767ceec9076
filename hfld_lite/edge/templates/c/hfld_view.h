/* From samples to what the network reads, and when to distrust a recording. */
#ifndef HFLD_VIEW_H
#define HFLD_VIEW_H

#include <stdint.h>

#include "hfld.h"

/* A recording of HFLD_SAMPLES samples: floats, or 16-bit numbers that stand for ints / 32768.
 * One of the two is NULL. */
typedef struct {
    const float *floats;
    const int16_t *ints;
} hfld_source;

/* Write the HFLD_LENGTH values that the network reads to out. work: HFLD_VIEW_WORK floats.
 * Returns HFLD_OK; HFLD_NOT_FINITE if a sample is NaN or infinite, or the values overflow;
 * HFLD_CONSTANT if all samples that the view reads, or all values, are equal. */
int hfld_view(const hfld_source *source, float *out, float *work);

/* HFLD_NOVEL if the levels of bands are unlike those of every class in training, and HFLD_CLIPPED
 * if the recording stays at an extreme value for long: the sum of the two, or 0; or a status below
 * 0 as hfld_view has. work: HFLD_DOUBT_WORK floats. Left out where HFLD_WARNINGS is 0. */
int hfld_doubt(const hfld_source *source, float *work);

#endif
