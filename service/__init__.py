"""What Temper knows and serves: specs, tricks, networks, inference, storage and HTTP."""
