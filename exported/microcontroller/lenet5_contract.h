#ifndef LENET5_CONTRACT_H_
#define LENET5_CONTRACT_H_

// Input: one image, 28 rows of 28 pixels, int8: the pixel less 128, where pixel 0 is
// background and 255 is ink. Output: int8: probability = (value + 128) / 256, class = index.

constexpr int lenet5_side = 28;
constexpr int lenet5_input_size = 784;
constexpr float lenet5_input_scale = 0.003921568859368563f;
constexpr int lenet5_input_zero_point = -128;
constexpr int lenet5_classes = 10;
constexpr float lenet5_output_scale = 0.00390625f;
constexpr int lenet5_output_zero_point = -128;
constexpr const char* lenet5_labels[lenet5_classes] = {
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
// Below this probability, the image shows none of them.
constexpr float lenet5_threshold = 0.6328125f;

// TensorFlow Lite Micro used 9616 bytes on a 64-bit host; a 32-bit core uses fewer.
constexpr int lenet5_arena_size = 10240;

#endif  // LENET5_CONTRACT_H_
