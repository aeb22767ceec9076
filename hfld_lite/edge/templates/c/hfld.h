/* Hears from {{ samples }} samples whether a part is sound. Written by hfld_lite {{ version }}.

   samples: {{ part }}, mono, at {{ rate }} Hz. As floats they have the units of
   the training (a WAV file's full scale is 1); as int16_t they are divided by 32768.
   The functions share one static block of memory: call them from one thread at a time. */

#ifndef HFLD_H
#define HFLD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HFLD_CLASSES {{ classes }}
#define HFLD_SAMPLES {{ samples }}
#define HFLD_SAMPLE_RATE {{ rate }}

/* Positions of the classes. */
enum {
{{ constants }}
    HFLD_UNSURE = -1        /* probably sound, but not certainly enough */
};

/* What the functions return; an error leaves probabilities as they were. */
enum {
    HFLD_OK = 0,
    HFLD_BAD_LENGTH = -1,   /* count is not HFLD_SAMPLES */
    HFLD_NOT_FINITE = -2,   /* a sample is NaN or infinite, or too large to be squared */
    HFLD_CONSTANT = -3      /* all samples are equal: no microphone? */
};

/* Bits of a warning. */
enum {
    HFLD_NOVEL = 1,         /* a spectrum unlike those of the training: another microphone, room? */
    HFLD_CLIPPED = 2        /* the loudest samples are cut off */
};

extern const char *const hfld_class_names[HFLD_CLASSES];
extern const char *const hfld_answers[HFLD_CLASSES];    /* "sound", "defective", or the class */

/* Probabilities of the classes, HFLD_CLASSES of them. Returns HFLD_OK or an error. */
int hfld_predict(const float *samples, int32_t count, float *probabilities);
int hfld_predict_int16(const int16_t *samples, int32_t count, float *probabilities);

/* The class to name, or HFLD_UNSURE. */
int hfld_answer(const float *probabilities);

/* Bits of warnings, or an error. Not there if HFLD_WARNINGS is defined as 0. */
int hfld_warnings(const float *samples, int32_t count);
int hfld_warnings_int16(const int16_t *samples, int32_t count);

#ifdef __cplusplus
}
#endif

#endif
