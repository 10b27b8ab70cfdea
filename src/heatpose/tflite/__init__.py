"""TFLite files as plain values: reading, writing, statistics, findings, inspection."""
