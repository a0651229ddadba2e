"""LeNet-5 in Keras, taken from MNIST to a measured int8 TFLite."""

__version__ = "0.1.0"
