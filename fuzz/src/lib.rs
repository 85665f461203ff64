//! Fuzz targets over the engine and the simulator.
