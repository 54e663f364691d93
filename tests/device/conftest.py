"""What the tests of this folder share."""

from where import device  # noqa: F401
