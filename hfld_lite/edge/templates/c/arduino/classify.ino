// Waits for an impact on a microphone at A0, records it, and prints the answer. Written for boards
// whose ADC reads {{ rate }} times a second; where yours is slower, use its timer and DMA instead.

extern "C" {
#include <hfld.h>
}

static int16_t samples[HFLD_SAMPLES];

const int BITS = 12;             // of the ADC
const int16_t LOUD = 2000;       // an impact begins; of 32768

static int16_t listen() {
  return (int16_t)((analogRead(A0) - (1 << (BITS - 1))) * (1 << (16 - BITS)));
}

void setup() {
  Serial.begin(115200);
#if defined(ARDUINO_ARCH_AVR)
#error "Choose a board with a 32-bit processor."
#else
  analogReadResolution(BITS);
#endif
}

void loop() {
  int16_t first;
  do {
    first = listen();
  } while (abs(first) < LOUD);
  const unsigned long begin = micros();
  samples[0] = first;
  for (int32_t i = 1; i < HFLD_SAMPLES; i++) {
    const unsigned long at = (unsigned long)((uint64_t)i * 1000000 / HFLD_SAMPLE_RATE);
    while (micros() - begin < at) {
    }
    samples[i] = listen();
  }
  float probabilities[HFLD_CLASSES];
  int status = hfld_predict_int16(samples, HFLD_SAMPLES, probabilities);
  if (status != HFLD_OK) {
    Serial.print("error ");
    Serial.println(status);
    return;
  }
  int answer = hfld_answer(probabilities);
  Serial.print(answer == HFLD_UNSURE ? "unsure" : hfld_answers[answer]);
  for (int i = 0; i < HFLD_CLASSES; i++) {
    Serial.print(i ? ", " : " (");
    Serial.print(hfld_class_names[i]);
    Serial.print(" ");
    Serial.print(probabilities[i], 3);
  }
  Serial.println(")");
  if (hfld_warnings_int16(samples, HFLD_SAMPLES) & HFLD_NOVEL) {
    Serial.println("warning: unlike the recordings of the training");
  }
}
