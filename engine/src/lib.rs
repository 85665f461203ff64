//! The ublk protocol as pure state machines: the engine decides, a driver obeys.
