//! A link to another process: one end of a `SOCK_SEQPACKET` pair, a datagram for each message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use blkproof_engine::link::{Message, Received, SendError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::wire::{self, DATAGRAM_BYTES};

/// One end of a link. Neither sending nor receiving ever blocks.
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

    /// Sends a message.
    ///
    /// # Errors
    /// [`SendError`]
    pub fn send(&self, message: Message) -> Result<(), SendError> {
        match rustix::net::send(&self.0, &wire::encode(message), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN) => Err(SendError::Full),
            Err(_) => Err(SendError::Closed),
        }
    }

    /// Takes the oldest message.
    pub fn receive(&self) -> Received {
        let mut bytes = [0; DATAGRAM_BYTES];
        let mut answer = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT);
        if let Err(Errno::CONNRESET) = answer {
            // The other end closed with messages unread. That is said once, ahead of what it had sent before.
            answer = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::DONTWAIT);
        }
        match answer {
            Ok((_, DATAGRAM_BYTES)) => wire::decode(bytes).map_or(Received::Closed, Received::Message),
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

impl AsRawFd for Peer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_the_end_is_seen() {
        let (one, other) = Peer::pair().expect("a socket pair");
        assert_eq!(other.receive(), Received::Empty);
        one.send(Message::Live).expect("room");
        one.send(Message::Quit).expect("room");
        drop(one);
        assert_eq!(other.receive(), Received::Message(Message::Live));
        assert_eq!(other.receive(), Received::Message(Message::Quit));
        assert_eq!(other.receive(), Received::Closed);
        assert_eq!(other.send(Message::Ended), Err(SendError::Closed));
    }

    #[test]
    fn what_a_peer_said_is_heard_even_if_it_did_not_listen() {
        let (one, other) = Peer::pair().expect("a socket pair");
        other.send(Message::Quit).expect("room");
        one.send(Message::Ended).expect("room");
        drop(one);
        assert_eq!(other.receive(), Received::Message(Message::Ended));
        assert_eq!(other.receive(), Received::Closed);
    }
}
