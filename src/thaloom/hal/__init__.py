"""Hardware: devices, drivers, and the operators through which a model meets a device."""
