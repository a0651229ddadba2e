#ifndef LENET5_MODEL_H_
#define LENET5_MODEL_H_

// lenet5, int8: a .tflite of 71818 bytes, SHA-256
// 7df1ce6ebb345822bfd28bedaf6eb3ca5104fb988b59f23d7565a34be073b59c.

constexpr unsigned lenet5_model_size = 71818;
constexpr unsigned lenet5_model_fnv1a = 0x4f4150c6;

// In flash; aligned, since weights are read where they lie.
extern const unsigned char lenet5_model[lenet5_model_size];

#endif  // LENET5_MODEL_H_
