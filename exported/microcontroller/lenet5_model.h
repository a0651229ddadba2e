#ifndef LENET5_MODEL_H_
#define LENET5_MODEL_H_

// lenet5, int8: a .tflite of 71818 bytes, SHA-256
// dfcfdf51c8ce7e0c960077c5da4c979096d051cd58e3eade295fdd61a0f4a616.

constexpr unsigned lenet5_model_size = 71818;
constexpr unsigned lenet5_model_fnv1a = 0x9ea73792;

// In flash; aligned, since weights are read where they lie.
extern const unsigned char lenet5_model[lenet5_model_size];

#endif  // LENET5_MODEL_H_
