"""Trains and evaluates segmentation networks and hands them over as model bundles."""
