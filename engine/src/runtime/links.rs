//! The connections to peer cores: writing what a turn produced, reading frames in place.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use logdrive_wal::Disk;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use crate::api::StateMachine;
use crate::core::{Core, Event, LinkId};
use crate::wire::{FRAME_BYTES_MAX, FrameError, HEADER_LEN, frame_len};

use super::cell::CoreCell;
use super::fd;
use super::notify::{Notify, yield_once};
use super::settings::RuntimeSettings;

/// A connection as the executor sees it: one descriptor for direct system calls, one that glommio waits on.
pub(crate) struct Connection {
    socket: OwnedFd,
    stream: RefCell<TcpStream>,
}

impl Connection {
    /// Takes a connected socket over.
    pub(crate) fn new(socket: OwnedFd, settings: &RuntimeSettings) -> io::Result<Connection> {
        let socket = socket2::Socket::from(socket);
        if settings.socket_buffer_bytes > 0 {
            socket.set_send_buffer_size(settings.socket_buffer_bytes)?;
            socket.set_recv_buffer_size(settings.socket_buffer_bytes)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        // A peer that vanished without a word (power, cable): pulses are sent all the time, so unacknowledged bytes tell.
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        let stream = fd::stream(socket.try_clone()?.into());
        Ok(Connection { socket: socket.into(), stream: RefCell::new(stream) })
    }

    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, buffer)).await
    }

    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(context, bytes)
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|context| self.poll_write(context, bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    pub(crate) async fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let read = self.read(buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[read..];
        }
        Ok(())
    }

    /// Ends the connection for both sides; whoever reads from it learns that.
    pub(crate) fn shut(&self) {
        // It may be gone already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// The socket, to be handed to another core.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

const USER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// One link: a connection after its handshake.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) connection: Connection,
    version: u16,
    out: RefCell<Vec<u8>>,
    sent: Cell<usize>,
    /// The socket is full: the writer task waits, the core's builder collects.
    blocked: Cell<bool>,
    closed: Cell<bool>,
    write_wanted: Notify,
}

/// A write buffer that grew beyond this gives the memory back.
const OUT_KEEP_BYTES: usize = 4 << 20;

impl Link {
    pub(crate) fn new(id: LinkId, connection: Connection, version: u16) -> Link {
        Link {
            id,
            connection,
            version,
            out: RefCell::default(),
            sent: Cell::new(0),
            blocked: Cell::new(false),
            closed: Cell::new(false),
            write_wanted: Notify::default(),
        }
    }

    pub(crate) fn close(&self) {
        if !self.closed.replace(true) {
            self.connection.shut();
        }
    }

    /// Sends what `out` holds without waiting.
    fn send_now(&self) {
        let mut out = self.out.borrow_mut();
        while self.sent.get() < out.len() {
            let rest = &out[self.sent.get()..];
            match send(&self.connection.socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent.set(self.sent.get() + sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.blocked.set(true);
                    self.write_wanted.notify();
                    return;
                }
                Err(_) => {
                    // The reader finds the same error and ends the link.
                    self.close();
                    break;
                }
            }
        }
        self.sent.set(0);
        out.clear();
        if out.capacity() > OUT_KEEP_BYTES {
            out.shrink_to(OUT_KEEP_BYTES);
        }
    }

    /// Waits until what `out` holds is sent. For the writer task.
    async fn send_rest(&self) -> io::Result<()> {
        poll_fn(|context| {
            let mut out = self.out.borrow_mut();
            while self.sent.get() < out.len() {
                match self.connection.poll_write(context, &out[self.sent.get()..]) {
                    Poll::Ready(Ok(sent)) => self.sent.set(self.sent.get() + sent),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.sent.set(0);
            out.clear();
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// The links of a core, by their dense numbers.
#[derive(Default)]
pub(crate) struct Links {
    links: RefCell<Vec<Option<Rc<Link>>>>,
}

impl Links {
    pub(crate) fn get(&self, id: LinkId) -> Option<Rc<Link>> {
        self.links.borrow().get(usize::from(id.0)).cloned().flatten()
    }

    /// Puts a link in its place and returns the one that was there.
    pub(crate) fn put(&self, link: Rc<Link>) -> Option<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        let index = usize::from(link.id.0);
        if index >= links.len() {
            links.resize_with(index + 1, || None);
        }
        links[index].replace(link)
    }

    /// Removes a link if it is the one in its place.
    pub(crate) fn remove(&self, link: &Rc<Link>) -> bool {
        let mut links = self.links.borrow_mut();
        match links.get_mut(usize::from(link.id.0)) {
            Some(place) if place.as_ref().is_some_and(|there| Rc::ptr_eq(there, link)) => {
                *place = None;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn close_all(&self) {
        for link in self.links.borrow().iter().flatten() {
            link.close();
        }
    }

    /// Sends what the core has for a link. True if the socket was full.
    pub(crate) fn flush<D: Disk, M: StateMachine>(&self, id: LinkId, core: &mut Core<D, M>) -> bool {
        let links = self.links.borrow();
        let Some(Some(link)) = links.get(usize::from(id.0)) else { return false };
        if link.blocked.get() || link.closed.get() {
            return false;
        }
        while core.take_frames(id, &mut link.out.borrow_mut()) {}
        link.send_now();
        link.blocked.get()
    }
}

/// Runs a link until its connection ends.
pub(crate) async fn run_link<M: StateMachine>(cell: &CoreCell<M>, link: &Link) -> LinkEnd {
    futures_lite::future::or(read_link(cell, link), write_link(cell, link)).await
}

/// Finishes writes that did not fit into the socket at once.
async fn write_link<M: StateMachine>(cell: &CoreCell<M>, link: &Link) -> LinkEnd {
    loop {
        link.write_wanted.notified().await;
        if !link.blocked.get() {
            continue;
        }
        if let Err(error) = link.send_rest().await {
            return LinkEnd::Io(error);
        }
        link.blocked.set(false);
        // What the core's builder collected meanwhile goes out with a turn.
        cell.base.turn.notify();
    }
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkEnd {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the peer sent garbage: {0}")]
    Frame(#[from] FrameError),
}

/// Reads frames and gives them to the core, until the connection ends.
async fn read_link<M: StateMachine>(cell: &CoreCell<M>, link: &Link) -> LinkEnd {
    let mut buffer = ReadBuffer::new();
    let mut without_pause = 0;
    loop {
        cell.admitted().await;
        let read = match link.connection.read(buffer.free()).await {
            Ok(0) => return LinkEnd::Closed,
            Ok(read) => read,
            Err(error) => return LinkEnd::Io(error),
        };
        if link.closed.get() {
            return LinkEnd::Closed;
        }
        buffer.filled(read);
        loop {
            match buffer.frame(link.version) {
                Ok(Some(bytes)) => {
                    if let Err(error) = cell.input(Event::Frame { link: link.id, bytes }) {
                        return LinkEnd::Frame(error);
                    }
                }
                Ok(None) => break,
                Err(error) => return LinkEnd::Frame(error),
            }
        }
        // A sender faster than this core must not keep the turn from running.
        without_pause += read;
        if without_pause >= READ_AT_ONCE {
            without_pause = 0;
            yield_once().await;
        }
    }
}

/// Bytes read from one link before others get their turn.
const READ_AT_ONCE: usize = 1 << 20;

/// Bytes of a link that are not handled yet; frames are handed out in place. Grows to the largest frame, and shrinks back
/// when large frames no longer come.
struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Times that all was handled since a large frame came.
    calm: u32,
}

impl ReadBuffer {
    const BASE: usize = 256 << 10;
    /// Less room than this at the end is not worth a system call.
    const LOW: usize = 32 << 10;
    /// `calm` at which a grown buffer gives its memory back.
    const CALM: u32 = 1000;

    fn new() -> ReadBuffer {
        ReadBuffer { bytes: vec![0; ReadBuffer::BASE], start: 0, end: 0, calm: 0 }
    }

    /// Where to read to; never empty.
    fn free(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.calm += 1;
            if self.calm >= ReadBuffer::CALM {
                self.calm = 0;
                self.bytes.truncate(ReadBuffer::BASE);
                self.bytes.shrink_to_fit();
            }
        } else if self.bytes.len() - self.end < ReadBuffer::LOW {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The next whole frame, or `None` if more bytes are needed; then there is room for them.
    fn frame(&mut self, version: u16) -> Result<Option<&[u8]>, FrameError> {
        let have = self.end - self.start;
        if have < HEADER_LEN {
            return Ok(None);
        }
        let len = frame_len(&self.bytes[self.start..self.end], version)?;
        assert!(len <= FRAME_BYTES_MAX, "frame_len bounds frames");
        if have < len {
            self.make_room(len);
            return Ok(None);
        }
        let frame = self.start..self.start + len;
        self.start += len;
        Ok(Some(&self.bytes[frame]))
    }

    /// A frame of `len` bytes fits behind `start`, with room to read on.
    fn make_room(&mut self, len: usize) {
        if len > ReadBuffer::BASE {
            self.calm = 0;
        }
        if self.start + len > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if len + ReadBuffer::LOW > self.bytes.len() {
                self.bytes.resize(len + ReadBuffer::LOW, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameBuilder, Pulse, VERSION_MAX};

    fn frame(pulse: u64) -> Vec<u8> {
        let mut builder = FrameBuilder::new();
        builder.pulse(Pulse {
            seq: pulse,
            echo: 0,
            healthy: true,
            full: false,
            drained: false,
            support_epoch: 1,
            promise_ms: 0,
            durable_end: 0,
        });
        let mut out = Vec::new();
        builder.finish(1, VERSION_MAX, &mut out);
        out
    }

    fn feed(buffer: &mut ReadBuffer, mut bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let free = buffer.free();
            let count = step.min(bytes.len()).min(free.len());
            free[..count].copy_from_slice(&bytes[..count]);
            buffer.filled(count);
            bytes = &bytes[count..];
            while let Some(frame) = buffer.frame(VERSION_MAX).unwrap() {
                frames.push(frame.to_vec());
            }
        }
        frames
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let sent: Vec<Vec<u8>> = (0..200).map(frame).collect();
        let bytes = sent.concat();
        for step in [1, 7, HEADER_LEN, 1000, bytes.len()] {
            assert_eq!(feed(&mut ReadBuffer::new(), &bytes, step), sent, "step {step}");
        }
    }

    #[test]
    fn the_buffer_never_runs_out_of_room_in_the_middle_of_a_frame() {
        // Frames that do not divide the buffer, many times its size.
        let sent: Vec<Vec<u8>> = (0..20_000).map(frame).collect();
        let mut buffer = ReadBuffer::new();
        assert_eq!(feed(&mut buffer, &sent.concat(), 100_000), sent);
        // A large frame makes it grow; much later it is small again.
        buffer.make_room(1 << 20);
        assert!(buffer.bytes.len() > 1 << 20);
        for _ in 0..ReadBuffer::CALM {
            buffer.free();
        }
        assert_eq!(buffer.bytes.len(), ReadBuffer::BASE);
    }

    #[test]
    fn garbage_is_an_error() {
        let mut buffer = ReadBuffer::new();
        buffer.free()[..HEADER_LEN].fill(0x55);
        buffer.filled(HEADER_LEN);
        assert!(buffer.frame(VERSION_MAX).is_err());
    }
}
