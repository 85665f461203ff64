//! Kernel messages: which of them are complaints, and about what.

use serde::{Deserialize, Serialize};

/// What a kernel message complains about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complaint {
    /// The kernel detected a fault of its own: a warning with a trace, a BUG, an oops, a corrupted list, a lock-up report.
    Fault,
    /// A task was blocked for long.
    BlockedTask,
    /// CPUs or clocks did not get the time they need. Under emulation that is the host's load, not a fault.
    Starvation,
    /// The guest ran out of memory.
    OutOfMemory,
}

const FAULTS: [&str; 22] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "Oops[",
    "general protection fault",
    "divide error:",
    "invalid opcode:",
    "stack segment:",
    "Kernel panic",
    "KASAN:",
    "UBSAN:",
    "KFENCE:",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "possible circular locking",
    "possible recursive locking",
    "unable to handle",
    "use-after-free",
    "double free",
    "scheduling while atomic",
];

const STARVATION: [&str; 6] = [
    "soft lockup",
    "hard LOCKUP",
    "self-detected stall",
    "detected stalls on CPUs",
    "rcu: INFO",
    "Clocksource",
];

/// Classifies the text of one message. `None`: nothing to complain about; I/O errors of devices that were deleted under load are expected.
pub fn classify(message: &str) -> Option<Complaint> {
    let has = |patterns: &[&str]| patterns.iter().any(|p| message.contains(p));
    // "BUG: soft lockup" is a fault by its prefix and starvation by its cause: the cause decides.
    if has(&STARVATION) || message.contains("clocksource: ") && message.contains("unstable") {
        Some(Complaint::Starvation)
    } else if message.contains("blocked for more than") {
        Some(Complaint::BlockedTask)
    } else if message.contains("Out of memory") || message.contains("invoked oom-killer") {
        Some(Complaint::OutOfMemory)
    } else if has(&FAULTS) {
        Some(Complaint::Fault)
    } else {
        None
    }
}

/// The text of a record read from `/dev/kmsg`: `prio,seq,time,flags;text`, continuation lines dropped.
pub fn text(record: &str) -> &str {
    let line = record.lines().next().unwrap_or_default();
    line.split_once(';').map_or(line, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_by_class() {
        use Complaint::{BlockedTask, Fault, OutOfMemory, Starvation};
        let table = [
            (
                "WARNING: CPU: 1 PID: 77 at drivers/block/ublk_drv.c:1234 ublk_x+0x1/0x2",
                Some(Fault),
            ),
            ("BUG: kernel NULL pointer dereference, address: 0000000000000008", Some(Fault)),
            ("Oops: 0000 [#1] PREEMPT SMP NOPTI", Some(Fault)),
            ("Oops: Oops: 0000 [#1] SMP NOPTI", Some(Fault)),
            ("list_add corruption. prev->next should be next", Some(Fault)),
            ("INFO: task fio:123 blocked for more than 60 seconds.", Some(BlockedTask)),
            ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [fio:1]", Some(Starvation)),
            ("rcu: INFO: rcu_preempt self-detected stall on CPU", Some(Starvation)),
            (
                "clocksource: timekeeping watchdog: Marking clocksource 'tsc' as unstable",
                Some(Starvation),
            ),
            ("fio invoked oom-killer: gfp_mask=0xcc0", Some(OutOfMemory)),
            ("Buffer I/O error on dev ublkb0, logical block 0, async page read", None),
            ("I/O error, dev ublkb0, sector 8 op 0x1:(WRITE) flags 0x8800", None),
            ("EXT4-fs (ublkb0): mounted filesystem r/w with ordered data mode", None),
        ];
        for (message, expected) in table {
            assert_eq!(classify(message), expected, "{message}");
        }
    }

    #[test]
    fn records_lose_their_header() {
        assert_eq!(text("4,500,1000,-;WARNING: x\n SUBSYSTEM=block\n"), "WARNING: x");
        assert_eq!(text("no header"), "no header");
    }
}
