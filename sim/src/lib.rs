//! A seeded simulator of ublk servers and the kernel they talk to.
