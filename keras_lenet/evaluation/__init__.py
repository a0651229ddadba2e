"""Scores, and what is made of them: significance, calibration, rejection, robustness."""
