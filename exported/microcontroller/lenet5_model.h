#ifndef LENET5_MODEL_H_
#define LENET5_MODEL_H_

// lenet5, int8: a .tflite of 71818 bytes, SHA-256
// ca8d94bbc5f40e1919030be897ad99d6c53ea4511516c6854b90010db5fd2721.

constexpr unsigned lenet5_model_size = 71818;
constexpr unsigned lenet5_model_fnv1a = 0x428037be;

// In flash; aligned, since weights are read where they lie.
extern const unsigned char lenet5_model[lenet5_model_size];

#endif  // LENET5_MODEL_H_
