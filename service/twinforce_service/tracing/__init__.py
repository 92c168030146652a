"""Traces of calls (OpenTelemetry): from the client, by the queue, to the batch that answers."""
