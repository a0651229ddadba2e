#ifndef LENET5_OPS_H_
#define LENET5_OPS_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// Exactly the ops that the model uses; nothing else is linked.
using lenet5_resolver = tflite::MicroMutableOpResolver<5>;

inline bool lenet5_register_ops(lenet5_resolver& resolver) {
  if (resolver.AddConv2D() != kTfLiteOk) return false;
  if (resolver.AddFullyConnected() != kTfLiteOk) return false;
  if (resolver.AddMaxPool2D() != kTfLiteOk) return false;
  if (resolver.AddResizeBilinear() != kTfLiteOk) return false;
  if (resolver.AddSoftmax() != kTfLiteOk) return false;
  return true;
}

#endif  // LENET5_OPS_H_
