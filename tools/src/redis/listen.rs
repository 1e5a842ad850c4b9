//! The listening sockets: one per core, on one address, which no other process may share.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::config::FrontDoorError;

/// Connections waiting to be accepted, per core.
const BACKLOG: i32 = 1_024;

/// A process that was killed keeps its sockets until the kernel has ended its operations on them, a moment after its end.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(50);

/// As [`listen_alone`], but an address in use is given a moment to become free: a node is often started again at once.
pub(super) fn listen_patiently(address: SocketAddr) -> Result<TcpListener, FrontDoorError> {
    let mut tries = PATIENCE.as_millis() / RETRY.as_millis();
    loop {
        match listen_alone(address) {
            Err(FrontDoorError::Listen { error, .. })
                if error.kind() == io::ErrorKind::AddrInUse && tries > 0 =>
            {
                tries -= 1;
                std::thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}

/// Listens where nobody else does.
///
/// SO_REUSEPORT is off here: with it a second node of the same user would silently get a part of the first one's clients.
pub(super) fn listen_alone(address: SocketAddr) -> Result<TcpListener, FrontDoorError> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of an earlier run that linger do not count as somebody else.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error| FrontDoorError::Listen { address, error })
}

/// Makes one listener per core out of the first.
pub(super) fn share(first: TcpListener, cores: u16) -> Result<Vec<TcpListener>, FrontDoorError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let address = first.local_addr().map_err(|error| FrontDoorError::Listen { address: unknown, error })?;
    let open = || -> io::Result<Vec<TcpListener>> {
        let first = Socket::from(first);
        // Only now, when the address is ours: the other cores' sockets must be let in.
        first.set_reuse_port(true)?;
        let mut listeners = vec![first.into()];
        for _ in 1..cores {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            listeners.push(socket.into());
        }
        Ok(listeners)
    };
    open().map_err(|error| FrontDoorError::Listen { address, error })
}

/// Hands a listener to this thread's executor.
pub(super) fn adopt(listener: TcpListener) -> glommio::net::TcpListener {
    // SAFETY: the descriptor is a listening socket and given up by its owner in the same expression.
    unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn cores_share_an_address_that_others_cannot_have() {
        let first = listen_alone(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen_patiently(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        let listeners = share(first, 3).unwrap();
        assert_eq!(listeners.len(), 3);
        assert!(listen_alone(address).is_err(), "also refused once it is shared between cores");

        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        let clients: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted: Vec<usize> =
            listeners.iter().map(|listener| listener.incoming().take_while(Result::is_ok).count()).collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|&count| count > 0), "spread over all: {accepted:?}");
        drop(listeners);
        listen_alone(address).unwrap();
    }
}
