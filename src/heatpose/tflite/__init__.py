"""TFLite files: graph, reader, writer, lint rules, inspection."""
