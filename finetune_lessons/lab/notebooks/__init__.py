"""Lessons as documents: executed from outside, at the scale that is asked for."""
