#ifndef @STEM@_MODEL_H_
#define @STEM@_MODEL_H_

// @stem@, int8: a .tflite of @size@ bytes, SHA-256
// @sha256@.

constexpr unsigned @stem@_model_size = @size@;
constexpr unsigned @stem@_model_fnv1a = @fnv1a@;

// In flash; aligned, since weights are read where they lie.
extern const unsigned char @stem@_model[@stem@_model_size];

#endif  // @STEM@_MODEL_H_
