"""What there is to learn from: packaged assets and data sets, one's own files, and how they are split."""
