#ifndef LENET5_MODEL_H_
#define LENET5_MODEL_H_

// lenet5, int8: a .tflite of 71770 bytes, SHA-256
// 05527647963423ac61b90737fc5dfcbbbfb491edb18e88f575d85579c9dc276a.

constexpr unsigned lenet5_model_size = 71770;
constexpr unsigned lenet5_model_fnv1a = 0x493096d0;

// In flash; aligned, since weights are read where they lie.
extern const unsigned char lenet5_model[lenet5_model_size];

#endif  // LENET5_MODEL_H_
