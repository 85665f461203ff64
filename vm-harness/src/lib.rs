//! Real kernels in QEMU, end-to-end scenarios, and verdicts that tell code from environment.
