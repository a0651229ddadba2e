#ifndef @STEM@_OPS_H_
#define @STEM@_OPS_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// Exactly the ops that the model uses; nothing else is linked.
using @stem@_resolver = tflite::MicroMutableOpResolver<@count@>;

inline bool @stem@_register_ops(@stem@_resolver& resolver) {
  @calls@
  return true;
}

#endif  // @STEM@_OPS_H_
