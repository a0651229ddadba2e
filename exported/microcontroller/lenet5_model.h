#ifndef LENET5_MODEL_H_
#define LENET5_MODEL_H_

// lenet5, int8: a .tflite of 71818 bytes, SHA-256
// e418667480b3db187ed00e6fb0df5f332ec68f9922ade59ce8ddb2449c5027ff.

constexpr unsigned lenet5_model_size = 71818;
constexpr unsigned lenet5_model_fnv1a = 0xbe467622;

// In flash; aligned, since weights are read where they lie.
extern const unsigned char lenet5_model[lenet5_model_size];

#endif  // LENET5_MODEL_H_
