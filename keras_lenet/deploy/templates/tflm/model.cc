#include "@stem@_model.h"

alignas(16) const unsigned char @stem@_model[@stem@_model_size] = {
    @content@
};
