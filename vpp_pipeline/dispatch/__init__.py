"""From schedule to device: commands, guard, ledger and verification."""
