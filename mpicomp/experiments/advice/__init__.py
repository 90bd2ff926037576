"""Advice: which method, compressor and exchange to run on a problem in a place, from short runs and a model of the place."""
