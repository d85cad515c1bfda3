"""Training pickers and picking with them."""
