"""Checks of engines by real replies: known answers, a first turn, speed."""
