"""Installation of engines: prebuilt wheels, and llama.cpp compiled for this processor."""
