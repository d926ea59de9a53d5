"""What exists: networks, endpoints and services, read and checked."""
