"""What ``gta-ref bench`` measures. Speed is measured here and never asserted by a test."""
