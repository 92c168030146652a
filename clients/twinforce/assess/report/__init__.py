"""The verdict, and the page that reports it."""
