//! A ublk engine that can be trusted not to hang: the driver on io_uring and the program blkproof.
