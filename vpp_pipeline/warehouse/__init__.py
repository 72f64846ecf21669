"""DuckDB behind one read()/write(), the landing zone, quarantine and migrations."""
