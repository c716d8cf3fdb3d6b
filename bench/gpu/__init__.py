"""Trainings and measurements of one loan of a GPU, with torch, numpy, pyarrow, safetensors and Pillow alone."""
