// Classify 28 rows of 28 pixels with TensorFlow Lite Micro.
// Compile it with the files of ../microcontroller/, with TensorFlow Lite Micro and
// with -DTF_LITE_STATIC_MEMORY.

#include "lenet5_contract.h"
#include "lenet5_model.h"
#include "lenet5_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"

alignas(16) static unsigned char arena[lenet5_arena_size];

// Return the digit, or -1 for "no digit" and for an interpreter that fails.
// Pixels: 0 = background, 255 = ink.
int classify(const unsigned char* pixels) {
  static lenet5_resolver resolver;
  static tflite::MicroInterpreter interpreter(tflite::GetModel(lenet5_model), resolver, arena,
                                              lenet5_arena_size);
  static const bool ready =
      lenet5_register_ops(resolver) && interpreter.AllocateTensors() == kTfLiteOk;
  if (!ready) return -1;
  for (int i = 0; i < lenet5_input_size; ++i) interpreter.input(0)->data.int8[i] = pixels[i] - 128;
  if (interpreter.Invoke() != kTfLiteOk) return -1;
  const signed char* scores = interpreter.output(0)->data.int8;
  int digit = 0;
  for (int k = 1; k < lenet5_classes; ++k) digit = scores[k] > scores[digit] ? k : digit;
  return (scores[digit] + 128) / 256.0f >= lenet5_threshold ? digit : -1;
}
