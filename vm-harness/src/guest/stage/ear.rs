//! The conductor's end of what a process of actors says. It listens itself, when it wants to know: a thread for each process that
//! does nothing else would be woken, and wake in turn, for every line.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::cue::{Answer, Cue};

/// What a single read takes at most.
const CHUNK: usize = 4096;

/// What came of listening.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(Answer),
    /// It was silent for all that time.
    Nothing,
    /// It says nothing any more: it is gone, or what it says makes no sense.
    End,
}

/// A stream of lines, each a cue or an answer.
#[derive(Debug)]
pub(super) struct Ear {
    stream: UnixStream,
    /// What was read, and is not a whole line yet.
    heard: Vec<u8>,
}

impl Ear {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, heard: Vec::new() }
    }

    pub(super) fn tell(&mut self, cue: &Cue) -> io::Result<()> {
        let mut line = serde_json::to_vec(cue)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }

    /// The next answer, if it comes within this time.
    pub(super) fn listen(&mut self, patience: Duration) -> Heard {
        let until = Instant::now() + patience;
        loop {
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let answer = serde_json::from_slice(&self.heard[..end]);
                self.heard.drain(..=end);
                return answer.map_or(Heard::End, Heard::Answer);
            }
            match self.is_readable(until.saturating_duration_since(Instant::now())) {
                Ok(true) => {}
                Ok(false) => return Heard::Nothing,
                Err(Errno::INTR) => continue,
                Err(_) => return Heard::End,
            }
            let mut chunk = [0; CHUNK];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Heard::End,
                Ok(read) => self.heard.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Heard::End,
            }
        }
    }

    fn is_readable(&self, patience: Duration) -> Result<bool, Errno> {
        let patience = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
        Ok(poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&patience))? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_one_by_one_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ear = Ear::new(ours);
        let line = |tid| serde_json::to_string(&Answer::Entered { thread: 0, tid }).unwrap() + "\n";
        let all = line(1) + &line(2);
        let (begin, end) = all.split_at(all.len() - 3);
        theirs.write_all(begin.as_bytes()).unwrap();
        let said = |heard| match heard {
            Heard::Answer(Answer::Entered { tid, .. }) => tid,
            other => panic!("{other:?}"),
        };
        assert_eq!(said(ear.listen(Duration::ZERO)), 1);
        assert!(matches!(ear.listen(Duration::ZERO), Heard::Nothing));
        theirs.write_all(end.as_bytes()).unwrap();
        assert_eq!(said(ear.listen(Duration::ZERO)), 2);
    }

    #[test]
    fn the_end_and_nonsense_end_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(Ear::new(ours).listen(Duration::ZERO), Heard::End));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"no answer\n").unwrap();
        assert!(matches!(Ear::new(ours).listen(Duration::ZERO), Heard::End));
    }
}
