"""Scores of models, calibration, rejection, robustness, quantization noise."""
