"""The version, without importing anything."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("edgepack")
except PackageNotFoundError:  # a checkout that was never installed
    VERSION = "0.0.0"
