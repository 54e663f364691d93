"""Feature attribution that respects the data manifold: the library that the chapters of `nbs/` export."""
__version__ = "0.1.0"
