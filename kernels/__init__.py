"""Triton kernels, one operation per file, each with a plain-torch reference; they know nothing of the system."""
