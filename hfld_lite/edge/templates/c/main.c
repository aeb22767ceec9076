/* Classifies the recordings of test_vector.h, and compares with the answers that Python gave. */

#include <math.h>
#include <stdio.h>

#include "hfld.h"
#include "test_vector.h"

int main(void)
{
    int failed = 0;
    for (int i = 0; i < TEST_RECORDINGS; i++) {
        float probabilities[HFLD_CLASSES], largest = 0.0f;
        int status = hfld_predict(test_samples[i], HFLD_SAMPLES, probabilities);
        int answer, warnings = 0, same = 1;
        if (status != HFLD_OK) {
            printf("recording %d: error %d\n", i, status);
            return 2;
        }
        answer = hfld_answer(probabilities);
#if !defined(HFLD_WARNINGS) || HFLD_WARNINGS
        warnings = hfld_warnings(test_samples[i], HFLD_SAMPLES);
#endif
        printf("recording %d: %s", i, answer == HFLD_UNSURE ? "unsure" : hfld_answers[answer]);
        for (int c = 0; c < HFLD_CLASSES; c++) {
            float difference = fabsf(probabilities[c] - test_expected[i][c]);
            largest = difference > largest ? difference : largest;
            same = same && difference <= TEST_TOLERANCE; /* NaN is not */
            printf(", %s %.4f", hfld_class_names[c], (double)probabilities[c]);
        }
        printf("%s%s; largest difference from Python %.1e\n",
               warnings & HFLD_NOVEL ? ", unlike the training" : "",
               warnings & HFLD_CLIPPED ? ", clipped" : "", (double)largest);
        failed += !same;
    }
    if (failed)
        printf("%d of %d recordings differ by more than %g\n", failed, TEST_RECORDINGS,
               (double)TEST_TOLERANCE);
    return failed > 0;
}
