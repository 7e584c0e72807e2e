"""Engines that this program installs: prebuilt wheels, and llama.cpp compiled for this processor."""
