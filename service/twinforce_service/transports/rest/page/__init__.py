"""The page that the service shows in a browser, and the live state that it follows."""
