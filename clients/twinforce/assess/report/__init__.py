"""The report of an assessment: its numbers, verdict, advice, tables, figures and web page."""
