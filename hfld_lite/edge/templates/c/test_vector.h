/* Recordings, and the probabilities that Python gave for them. */

#ifndef TEST_VECTOR_H
#define TEST_VECTOR_H

#include "hfld.h"
#include "hfld_network.h"

#define TEST_RECORDINGS {{ count }}

static const float test_samples[TEST_RECORDINGS][HFLD_SAMPLES] = {
{{ samples }}
};

#ifdef HFLD_FLOAT32
#define TEST_TOLERANCE {{ "%g" | format(tolerance) }}f
static const float test_expected[TEST_RECORDINGS][HFLD_CLASSES] = { {{ exact }} };
{% if small %}
#else
#define TEST_TOLERANCE {{ "%g" | format(loose) }}f
static const float test_expected[TEST_RECORDINGS][HFLD_CLASSES] = { {{ small }} };
{% endif %}
#endif

#endif
