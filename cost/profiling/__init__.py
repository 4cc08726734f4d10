"""Measuring a job, a machine and a store: what plans are made from."""
