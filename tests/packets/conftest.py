"""Real packets, in namespaces of our own."""

from tests.lab import bench, lab

__all__ = ["bench", "lab"]
