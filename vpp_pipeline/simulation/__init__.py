"""The simulated fleet: device physics behind the real protocols."""
