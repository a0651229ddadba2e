"""Entry point of `python -m keras_lenet`, which is `keras-lenet`."""

from keras_lenet.cli import main

main()
