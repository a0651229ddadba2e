"""An int8 .tflite as C99 that needs nothing but a compiler: integers only, no interpreter."""
