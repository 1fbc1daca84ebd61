"""Benchmarks: time, memory and accuracy of what the package does, measured on the machine at hand."""
