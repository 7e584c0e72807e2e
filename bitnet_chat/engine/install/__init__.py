"""Installation of engines: prebuilt wheels, and engines compiled for this processor."""
