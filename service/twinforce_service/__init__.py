"""The inference service: scheduling, engines, calls and transports."""
