"""Checks of the lessons' exercises, a module a lesson."""
