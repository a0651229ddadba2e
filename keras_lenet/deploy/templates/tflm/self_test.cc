// Prints PASS, or the first difference. Call self_test() from a firmware's main with
// @STEM@_NO_MAIN defined, or build and run it on this machine: make

#include <cstdio>

#include "@stem@_contract.h"
#include "@stem@_golden.h"
#include "@stem@_model.h"

// Defined by the Makefile where no TensorFlow Lite Micro is named: the interpreter isn't tested.
#ifndef @STEM@_NO_INTERPRETER
#include "@stem@_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/schema/schema_generated.h"
#endif

namespace {

// The array reached the flash whole, and aligned.
bool check_model() {
  unsigned hash = 0x811c9dc5u;
  for (unsigned i = 0; i < @stem@_model_size; ++i) {
    hash = (hash ^ @stem@_model[i]) * 0x01000193u;
  }
  if (hash != @stem@_model_fnv1a) {
    std::printf("FAIL: the model's hash is %08x, expected %08x\n", hash, @stem@_model_fnv1a);
    return false;
  }
  if (reinterpret_cast<__UINTPTR_TYPE__>(@stem@_model) % 16 != 0) {
    std::printf("FAIL: the model is not aligned to 16 bytes\n");
    return false;
  }
  return true;
}

// The expected outputs are probabilities: rounding apart, they add up to 1.
bool check_vectors() {
  for (int i = 0; i < @stem@_golden_count; ++i) {
    int sum = 0;
    for (int k = 0; k < @stem@_classes; ++k) {
      sum += @stem@_golden_outputs[i][k] - @stem@_output_zero_point;
    }
    if (sum < 246 || sum > 266) {
      std::printf("FAIL: golden outputs of %s add up to %d/256\n", @stem@_golden_names[i], sum);
      return false;
    }
  }
  return true;
}

#ifndef @STEM@_NO_INTERPRETER
const char* const answered = ", answered bit for bit";
alignas(16) unsigned char arena[@stem@_arena_size];

bool check_answers() {
  @stem@_resolver resolver;
  if (!@stem@_register_ops(resolver)) return false;
  tflite::MicroInterpreter interpreter(tflite::GetModel(@stem@_model), resolver, arena,
                                       @stem@_arena_size);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    std::printf("FAIL: the arena of %d bytes is too small\n", @stem@_arena_size);
    return false;
  }
  for (int i = 0; i < @stem@_golden_count; ++i) {
    for (int k = 0; k < @stem@_input_size; ++k) {
      interpreter.input(0)->data.int8[k] = @stem@_golden_images[i][k];
    }
    if (interpreter.Invoke() != kTfLiteOk) {
      std::printf("FAIL: %s: the interpreter stopped\n", @stem@_golden_names[i]);
      return false;
    }
    for (int k = 0; k < @stem@_classes; ++k) {
      const int found = interpreter.output(0)->data.int8[k];
      if (found != @stem@_golden_outputs[i][k]) {
        std::printf("FAIL: %s: output %d is %d, expected %d\n", @stem@_golden_names[i], k, found,
                    @stem@_golden_outputs[i][k]);
        return false;
      }
    }
  }
  return true;
}
#else
const char* const answered = "; no interpreter to answer them";
bool check_answers() { return true; }
#endif

}  // namespace

int self_test() {
  if (!check_model() || !check_vectors() || !check_answers()) return 1;
  std::printf("PASS: the model array and %d golden vectors%s\n", @stem@_golden_count,
              answered);
  return 0;
}

#ifndef @STEM@_NO_MAIN
int main() { return self_test(); }
#endif
