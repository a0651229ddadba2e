#ifndef @STEM@_GOLDEN_H_
#define @STEM@_GOLDEN_H_

// Images and the outputs of TensorFlow Lite Micro's interpreter for them, bit for bit.
//
// @credit@

constexpr int @stem@_golden_count = @vectors@;

constexpr const char* @stem@_golden_names[@stem@_golden_count] = {@names@};

constexpr signed char @stem@_golden_images[@stem@_golden_count][784] = {
  @images@
};

constexpr signed char @stem@_golden_outputs[@stem@_golden_count][10] = {
  @outputs@
};

#endif  // @STEM@_GOLDEN_H_
