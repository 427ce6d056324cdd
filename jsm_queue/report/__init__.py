"""The report of a study: its data as JSON, its charts, one HTML file."""
