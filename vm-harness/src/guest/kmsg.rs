//! The guest kernel's log, read as it grows.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::kmsg::{Complaint, classify, text};

/// A reader of `/dev/kmsg` that never waits.
#[derive(Debug)]
pub(super) struct KernelLog {
    file: Option<File>,
}

impl KernelLog {
    pub(super) fn open() -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open("/dev/kmsg")
            .ok();
        Self { file }
    }

    /// Messages since the last call.
    pub(super) fn news(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        let Some(file) = &mut self.file else {
            return messages;
        };
        let mut record = vec![0; 8192];
        loop {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    messages.push(text(&String::from_utf8_lossy(&record[..length])).to_owned());
                }
                // The ring buffer overtook us: older messages are lost, newer ones follow.
                Err(e)
                    if e.kind() == ErrorKind::BrokenPipe || e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        messages
    }

    /// Makes the kernel print the stacks of all blocked tasks, and returns the news.
    pub(super) fn with_blocked_tasks(&mut self) -> Vec<String> {
        let _ = fs::write("/proc/sysrq-trigger", "w");
        thread::sleep(Duration::from_millis(500));
        self.news()
    }
}

/// The complaints among messages.
pub(super) fn complaints(messages: &[String]) -> Vec<(Complaint, String)> {
    messages.iter().filter_map(|m| Some((classify(m)?, m.clone()))).collect()
}
