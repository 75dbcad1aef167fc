"""Benchmarks: each measures this project beside a peer and a floor in one run, and prints ratios. None is a test.

``python -m benchmarks`` runs them, ``python -m benchmarks.growth`` calculates what grows. Both talk to loopback alone.
"""
