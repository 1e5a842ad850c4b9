//! The submission queue entry of each operation.

use std::os::fd::AsRawFd;

use io_uring::{opcode, squeue, types};

use super::{Kind, RingDisk};
use crate::disk::{FileId, OpenMode};

/// In the user data of an fdatasync that is linked behind the write of the same slot.
pub(super) const LINKED_SYNC: u64 = 1 << 32;

/// Of the class "best effort" the last level: see ioprio_set(2).
const BACKGROUND_PRIORITY: u16 = 2 << 13 | 7;

/// A file as the ring knows it.
enum Target {
    Fixed(types::Fixed),
    Plain(types::Fd),
}

impl RingDisk {
    fn descriptor(&self, file: FileId) -> Option<Target> {
        let open = self.files.get(file.0 as usize)?.as_ref()?;
        if file.0 < self.registered_files {
            return Some(Target::Fixed(types::Fixed(file.0)));
        }
        Some(Target::Plain(types::Fd(open.file.as_raw_fd())))
    }

    /// The submission of a slot, or nothing if it names a file that is not open.
    pub(super) fn entry(&mut self, index: u32) -> Option<squeue::Entry> {
        let target = match self.slots[index as usize].kind {
            Kind::Write | Kind::Read | Kind::Sync => Some(self.descriptor(self.slots[index as usize].file)?),
            _ => None,
        };
        let directory = types::Fd(self.directory.as_raw_fd());
        let direct = if self.facts.direct { libc::O_DIRECT } else { 0 };
        let priority = if self.background { BACKGROUND_PRIORITY } else { 0 };
        let slot = &mut self.slots[index as usize];
        let names = slot.names.as_deref();
        let entry = match slot.kind {
            Kind::Free => return None,
            Kind::Open(mode) => {
                let flags = match mode {
                    OpenMode::CreateNew => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
                    OpenMode::ReadWrite => libc::O_RDWR,
                    OpenMode::ReadOnly => libc::O_RDONLY,
                };
                opcode::OpenAt::new(directory, names?.0.as_ptr())
                    .flags(flags | direct | libc::O_CLOEXEC | libc::O_NOFOLLOW)
                    .mode(0o600)
                    .build()
            }
            Kind::Write => {
                let linked = self.facts.durable_writes.is_linked();
                let flags = if slot.durable && !linked { libc::RWF_DSYNC } else { 0 };
                let buffer = slot.buffer.as_mut()?;
                let memory = buffer.as_mut_ptr();
                match (target?, buffer.registered()) {
                    (Target::Fixed(f), Some(b)) => opcode::WriteFixed::new(f, memory, slot.len, b)
                        .offset(slot.offset)
                        .ioprio(priority)
                        .rw_flags(flags)
                        .build(),
                    (Target::Fixed(f), None) => opcode::Write::new(f, memory, slot.len)
                        .offset(slot.offset)
                        .ioprio(priority)
                        .rw_flags(flags)
                        .build(),
                    (Target::Plain(f), _) => opcode::Write::new(f, memory, slot.len)
                        .offset(slot.offset)
                        .ioprio(priority)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Kind::Read => {
                let memory = slot.buffer.as_mut()?.as_mut_ptr();
                match target? {
                    Target::Fixed(f) => {
                        opcode::Read::new(f, memory, slot.len).offset(slot.offset).ioprio(priority).build()
                    }
                    Target::Plain(f) => {
                        opcode::Read::new(f, memory, slot.len).offset(slot.offset).ioprio(priority).build()
                    }
                }
            }
            Kind::Sync => match target? {
                Target::Fixed(f) => opcode::Fsync::new(f).build(),
                Target::Plain(f) => opcode::Fsync::new(f).build(),
            },
            Kind::Rename => {
                let names = names?;
                opcode::RenameAt::new(directory, names.0.as_ptr(), directory, names.1.as_ptr()).build()
            }
            Kind::Unlink => opcode::UnlinkAt::new(directory, names?.0.as_ptr()).build(),
            Kind::SyncDir => opcode::Fsync::new(directory).build(),
        };
        let is_started_elsewhere = self.background && matches!(slot.kind, Kind::Read | Kind::Write);
        let flags = if is_started_elsewhere { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        Some(entry.flags(flags).user_data(u64::from(index)))
    }

    /// The submissions of a slot: two, linked, for a write that an fdatasync makes durable.
    pub(super) fn entries(&mut self, index: u32) -> Option<(squeue::Entry, Option<squeue::Entry>)> {
        let entry = self.entry(index)?;
        let slot = &self.slots[index as usize];
        if slot.kind != Kind::Write || !slot.durable || !self.facts.durable_writes.is_linked() {
            return Some((entry, None));
        }
        let sync = match self.descriptor(slot.file)? {
            Target::Fixed(f) => opcode::Fsync::new(f).flags(types::FsyncFlags::DATASYNC).build(),
            Target::Plain(f) => opcode::Fsync::new(f).flags(types::FsyncFlags::DATASYNC).build(),
        };
        let sync = sync.user_data(u64::from(index) | LINKED_SYNC);
        Some((entry.flags(squeue::Flags::IO_LINK), Some(sync)))
    }
}
