"""Engines tried by real replies: known answers, a first turn, speed."""
