//! The descriptors that glommio has no safe way to take over.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use glommio::io::BufferedFile;
use glommio::net::{TcpListener, TcpStream};

/// An eventfd that can be awaited.
pub(crate) struct EventFd {
    file: BufferedFile,
}

impl EventFd {
    /// Awaits a duplicate of `fd`, which must be open.
    pub(crate) fn duplicate(fd: RawFd) -> io::Result<EventFd> {
        // SAFETY: the caller owns `fd` and keeps it open during this call; the borrow ends with it.
        let duplicate = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        // SAFETY: the duplicate is owned here and given away; nothing else closes it.
        Ok(EventFd { file: unsafe { BufferedFile::from_raw_fd(duplicate.into_raw_fd()) } })
    }

    /// Waits until the counter is not zero, and clears it: one operation of the executor's ring.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.file.read_at(0, 8).await?;
        Ok(())
    }
}

/// A listener of the standard library, on this executor.
pub(crate) fn listener(listener: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor is owned by `listener` and given away; nothing else closes it.
    unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) }
}

/// A connected socket, on this executor.
pub(crate) fn stream(socket: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is owned by `socket` and given away; nothing else closes it.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// What a stream of glommio connected, as a socket of its own.
pub(crate) fn socket_of(stream: &TcpStream) -> io::Result<OwnedFd> {
    // SAFETY: `stream` keeps its descriptor open during this call; the borrow ends with it.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }.try_clone_to_owned()
}
