"""What the plant is: sites, grid connections, devices, connections, groups and tags."""
