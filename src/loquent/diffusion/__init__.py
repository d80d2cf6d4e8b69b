"""Noise schedules, samplers, guidance and windows: plain functions, no weights."""
