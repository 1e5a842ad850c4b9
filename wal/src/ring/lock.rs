//! One process per directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::setup::RingError;

/// Name of the lock file.
pub(crate) const LOCK_FILE: &str = "LOCK";
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);

/// Takes the lock of the directory, with retries: a process that was killed holds it until the kernel has ended its
/// operations. The holder's pid is in the file, for the message to the next one.
pub(super) fn lock(root: &Path, wait_ms: u32) -> Result<File, RingError> {
    let path = root.join(LOCK_FILE);
    let io = |op: &'static str| {
        let path = path.clone();
        move |source| RingError::Io { op, path, source }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io("open"))?;
    let tries = wait_ms.div_ceil(RETRY.as_millis() as u32);
    for attempt in 0.. {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if attempt < tries => std::thread::sleep(RETRY),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The file says who; if it cannot be read, the message goes without.
                let _ = file.read_to_string(&mut text);
                return Err(RingError::Locked { path, pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(io("lock")(error.into())),
        }
    }
    // A full disk must not keep the log from opening: the pid is only for messages.
    let _ = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()));
    Ok(file)
}
