"""Lets `python -m keras_lenet` do what `keras-lenet` does."""

from keras_lenet.cli import main

main()
