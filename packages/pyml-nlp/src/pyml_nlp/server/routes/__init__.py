"""The routes of the server, by API."""
