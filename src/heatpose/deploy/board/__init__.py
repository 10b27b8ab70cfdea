"""Programs that are copied into the deployment package and run without an installed heatpose."""
