#ifndef @STEM@_CONTRACT_H_
#define @STEM@_CONTRACT_H_

// Input: one image, 28 rows of 28 pixels, int8: the pixel less 128, where pixel 0 is
// background and 255 is ink. Output: int8: probability = (value + 128) / 256, class = index.

constexpr int @stem@_side = 28;
constexpr int @stem@_input_size = 784;
constexpr float @stem@_input_scale = @input_scale@f;
constexpr int @stem@_input_zero_point = @input_zero_point@;
constexpr int @stem@_classes = 10;
constexpr float @stem@_output_scale = @output_scale@f;
constexpr int @stem@_output_zero_point = @output_zero_point@;
constexpr const char* @stem@_labels[@stem@_classes] = {
    @labels@};
// Below this probability, the image shows none of them.
constexpr float @stem@_threshold = @threshold@f;

// @how@.
constexpr int @stem@_arena_size = @arena_size@;

#endif  // @STEM@_CONTRACT_H_
