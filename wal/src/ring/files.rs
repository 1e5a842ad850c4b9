//! Opened, closed, listed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{LOCK_FILE, OpenFile, RingDisk};
use crate::disk::{DiskError, Done, FileId};

impl RingDisk {
    pub(super) fn opened(&mut self, opened: File, name: String) -> Result<Done, DiskError> {
        let fail = |error: io::Error, name: &str| DiskError {
            op: "open",
            name: name.to_owned(),
            offset: None,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        };
        let len = opened.metadata().map_err(|e| fail(e, &name))?.len();
        let index = match self.files.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.files.push(None);
                self.files.len() - 1
            }
        };
        if (index as u32) < self.registered_files {
            let fds = [opened.as_raw_fd()];
            self.ring.submitter().register_files_update(index as u32, &fds).map_err(|e| fail(e, &name))?;
        }
        self.files[index] = Some(OpenFile { file: opened, name });
        Ok(Done::Opened { file: FileId(index as u32), len })
    }

    pub(super) fn close(&mut self, file: FileId) -> Result<Done, DiskError> {
        let missing =
            || DiskError { op: "close", name: format!("file {}", file.0), offset: None, errno: libc::EBADF };
        let open = self.files.get_mut(file.0 as usize).and_then(Option::take).ok_or_else(missing)?;
        if file.0 < self.registered_files {
            // If this fails the kernel keeps a reference to a file that is not used again; nothing depends on it.
            let _ = self.ring.submitter().register_files_update(file.0, &[-1]);
        }
        drop(open);
        Ok(Done::Ok)
    }

    pub(super) fn list(&self) -> Result<Done, DiskError> {
        let fail = |error: io::Error| DiskError {
            op: "list",
            name: ".".to_owned(),
            offset: None,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let metadata = entry.metadata().map_err(fail)?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                names.push((name, metadata.len()));
            }
        }
        names.retain(|(name, _)| name != LOCK_FILE);
        names.sort();
        Ok(Done::Listed(names))
    }
}
