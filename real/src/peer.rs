//! A link to another process: one end of a `SOCK_SEQPACKET` pair, a datagram for each message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use blkproof_engine::link::Received;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Room for every message.
const DATAGRAM_BYTES_MAX: usize = 64;

/// One end of a link. Neither telling nor hearing ever blocks. Both ends are the same program, so the format has no version.
#[derive(Debug)]
pub struct Peer(OwnedFd);

impl Peer {
    /// Both ends of a new link.
    ///
    /// # Errors
    /// What `socketpair` answered.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a message. One that cannot be sent, because the peer is gone or the machine is out of memory, is lost: whoever
    /// waits for it has a deadline.
    pub fn tell<M: Serialize>(&self, message: &M) {
        let mut bytes = [0; DATAGRAM_BYTES_MAX];
        let bytes =
            postcard::to_slice(message, &mut bytes).expect("a message fits into a datagram");
        let _ = rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    /// Takes the oldest message. A datagram that does not decode is taken for the end of the peer.
    pub fn hear<M: DeserializeOwned>(&self) -> Received<M> {
        let mut bytes = [0; DATAGRAM_BYTES_MAX];
        let mut answer = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT);
        if let Err(Errno::CONNRESET) = answer {
            // The other end closed with messages unread. That is said once, ahead of what it had sent before.
            answer = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT);
        }
        match answer {
            Ok((len, _)) if len > 0 => {
                postcard::from_bytes(&bytes[..len]).map_or(Received::Closed, Received::Message)
            }
            Err(Errno::AGAIN | Errno::INTR) => Received::Empty,
            Ok(_) | Err(_) => Received::Closed,
        }
    }
}

impl From<OwnedFd> for Peer {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Peer> for OwnedFd {
    fn from(peer: Peer) -> Self {
        peer.0
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use blkproof_engine::cause::{Cause, Problem, Step};
    use blkproof_engine::link::{FromWorker, ToWorker, Verdict};
    use blkproof_engine::sys::WorkerExit;
    use blkproof_engine::uapi::{DevId, Errno, QueueId};

    use super::*;

    #[test]
    fn messages_arrive_in_order_and_the_end_is_seen() {
        let (one, other) = Peer::pair().expect("a socket pair");
        assert_eq!(other.hear::<ToWorker>(), Received::Empty);
        one.tell(&ToWorker::Live);
        one.tell(&ToWorker::Quit);
        drop(one);
        assert_eq!(other.hear(), Received::Message(ToWorker::Live));
        assert_eq!(other.hear(), Received::Message(ToWorker::Quit));
        assert_eq!(other.hear::<ToWorker>(), Received::Closed);
        other.tell(&FromWorker::Ended);
    }

    #[test]
    fn what_a_peer_said_is_heard_even_if_it_did_not_listen() {
        let (one, other) = Peer::pair().expect("a socket pair");
        other.tell(&ToWorker::Quit);
        one.tell(&FromWorker::Ended);
        drop(one);
        assert_eq!(other.hear(), Received::Message(FromWorker::Ended));
        assert_eq!(other.hear::<FromWorker>(), Received::Closed);
    }

    #[test]
    fn every_message_survives_the_way_and_fits() {
        let (one, other) = Peer::pair().expect("a socket pair");
        let queue = QueueId(u16::MAX);
        let problems = [
            Problem::Errno(Errno(u16::MAX)),
            Problem::Deadline,
            Problem::WorkerExited(WorkerExit::Code(255)),
            Problem::WorkerExited(WorkerExit::Signal(64)),
            Problem::WorkerExited(WorkerExit::Unknown),
            Problem::LinkClosed,
            Problem::Stopped,
            Problem::Protocol,
            Problem::Unsupported,
        ];
        for problem in problems {
            let cause = Cause::new(Step::Serve(queue), problem);
            for message in [FromWorker::Primed, FromWorker::Ended, FromWorker::Failed(cause)] {
                one.tell(&message);
                assert_eq!(other.hear(), Received::Message(message));
            }
            for stuck in [None, Some(Step::Fetch(queue))] {
                let verdict = Verdict::Down { cause, stuck };
                one.tell(&verdict);
                assert_eq!(other.hear(), Received::Message(verdict));
            }
        }
        one.tell(&Verdict::Up(DevId(u32::MAX)));
        assert_eq!(other.hear(), Received::Message(Verdict::Up(DevId(u32::MAX))));
    }

    #[test]
    fn bytes_that_are_no_message_end_the_link() {
        let (one, other) = Peer::pair().expect("a socket pair");
        for bytes in [&[77_u8][..], &[1, 200, 200, 200, 200, 200, 200], &[0xff; 64]] {
            rustix::net::send(&one.0, bytes, SendFlags::NOSIGNAL).expect("sent");
            assert_eq!(other.hear::<Verdict>(), Received::Closed);
        }
    }
}
