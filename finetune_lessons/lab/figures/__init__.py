"""Pictures for every page: what reads on white and on black, and the words that stand for a picture."""
