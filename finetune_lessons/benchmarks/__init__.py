"""What the lessons' methods cost, measured side by side with other libraries."""
