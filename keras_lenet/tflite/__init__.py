"""Host tools for .tflite files: convert, inspect, lay out, describe, compare kernels."""
