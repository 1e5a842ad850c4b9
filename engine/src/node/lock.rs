//! One process per data directory.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::NodeError;

/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);

/// An exclusive lock on a data directory (flock(2) on the directory itself), held until it is dropped or the process has ended.
#[derive(Debug)]
pub struct DirectoryLock {
    _directory: File,
}

impl DirectoryLock {
    /// Makes the directory if it does not exist and locks it. Blocks, up to `patience`: a process that was killed keeps its lock until the
    /// kernel has ended its operations.
    pub fn acquire(dir: &Path, patience: Duration) -> Result<DirectoryLock, NodeError> {
        let failed = |doing: &'static str| move |error| NodeError::Io { doing, dir: dir.to_owned(), error };
        std::fs::create_dir_all(dir).map_err(failed("cannot make"))?;
        let directory = File::open(dir).map_err(failed("cannot open"))?;
        let mut tries = patience.as_millis() / RETRY.as_millis();
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(DirectoryLock { _directory: directory }),
                Err(rustix::io::Errno::WOULDBLOCK) if tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(RETRY);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(NodeError::Locked { dir: dir.to_owned() }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed("cannot lock")(error.into())),
            }
        }
    }
}

/// Whether there are directories (logs of cores) in a directory: see [`super::Start::occupied`].
pub fn has_subdirectories(dir: &Path) -> Result<bool, NodeError> {
    let failed = |error| NodeError::Io { doing: "cannot list", dir: dir.to_owned(), error };
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let kind = entry.and_then(|entry| Ok((entry.file_type()?, entry.file_name()))).map_err(failed)?;
        // The root directory of an ext4 file system has one that nobody made.
        if kind.0.is_dir() && kind.1 != "lost+found" {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("node");
        let lock = DirectoryLock::acquire(&dir, Duration::ZERO).unwrap();
        let refused = DirectoryLock::acquire(&dir, Duration::from_millis(60));
        assert!(matches!(refused, Err(NodeError::Locked { .. })), "{refused:?}");
        drop(lock);
        DirectoryLock::acquire(&dir, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_lock_given_back_while_waiting_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(root.path(), Duration::ZERO).unwrap();
        let dir = root.path().to_owned();
        let waiter = std::thread::spawn(move || DirectoryLock::acquire(&dir, Duration::from_secs(60)));
        drop(lock);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn subdirectories_are_seen_and_files_are_not() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), b"x").unwrap();
        assert!(!has_subdirectories(root.path()).unwrap());
        std::fs::create_dir(root.path().join("core-0")).unwrap();
        assert!(has_subdirectories(root.path()).unwrap());
    }
}
