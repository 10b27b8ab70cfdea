"""The pose network and where its first weights come from."""
