"""What people look at: pictures and the self-contained HTML report."""
