"""What runs were worth, side by side: comparisons over seeds, plots, profiles, memory."""
