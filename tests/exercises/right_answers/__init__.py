"""Right answers that are written otherwise than the lessons' solutions, a module a lesson: the check, the function."""
