"""What is kept: sessions, ports, TCP states and timers."""
