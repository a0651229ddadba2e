"""Inference on the device: NumPy, Pillow and the LiteRT interpreter, never TensorFlow."""
