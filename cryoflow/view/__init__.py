"""Pages that show picks on micrographs, let people clean them, and serve reports by address."""
