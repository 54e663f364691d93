"""Running, teaching and testing the course; what a chapter starts with."""
from manifold_xai.course.bar import ticking
from manifold_xai.course.chapter import Run, begin, bootstrap, exact, record

__all__ = ["Run", "begin", "bootstrap", "exact", "record", "ticking"]
