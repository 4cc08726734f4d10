"""Measurements of a job, a machine and a store, from which plans are made."""
