"""Measure a family on data with truth: a table of scores, and the calibration that is fitted on it."""
