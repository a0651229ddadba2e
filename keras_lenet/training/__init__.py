"""Fitting of any of the networks."""
