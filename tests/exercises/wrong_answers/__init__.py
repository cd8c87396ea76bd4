"""Usual mistakes in the exercises, a module a lesson: the check, the wrong function, words of what the check says."""
