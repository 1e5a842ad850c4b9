//! Performing one operation of the simulated disk.

use super::fault::FaultKind;
use super::platter::{DirChange, Orphan, Platter};
use super::{Handle, Pending, SimDisk, kind_of};
use crate::buffer::Buffer;
use crate::disk::{ALIGNMENT, Completion, DiskError, Done, FileId, Op, OpenMode};

impl SimDisk {
    pub(super) fn perform(&mut self, pending: Pending) {
        let alive = {
            let mut platter = self.platter.borrow_mut();
            let alive = platter.owner == Some(self.generation) && !platter.halted();
            platter.performed += u64::from(alive);
            alive
        };
        if !alive {
            // The process is dead and does not know it: it hears of nothing, and what it asked for stays under way.
            let (kind, _) = kind_of(&pending.op);
            let name = self.name_of(&pending.op);
            let error = DiskError { op: kind.name(), name, offset: None, errno: libc::ESHUTDOWN };
            let buffer = self.copy_buffer(&pending.op);
            self.complete.push(Completion { token: pending.token, result: Err(error), buffer });
            if self.platter.borrow().owner == Some(self.generation) {
                let orphan = self.orphan_of(&pending.op);
                self.platter.borrow_mut().orphans.extend(orphan);
            }
            return;
        }
        let completion = self.perform_alive(pending);
        self.complete.push(completion);
    }

    fn copy_buffer(&mut self, op: &Op) -> Option<Buffer> {
        match op {
            Op::Write { buffer, .. } | Op::Read { buffer, .. } => Some(Buffer::heap(buffer.capacity())),
            _ => None,
        }
    }

    pub(super) fn orphan_of(&self, op: &Op) -> Option<Orphan> {
        let Op::Write { file, offset, buffer, len, .. } = op else { return None };
        let inode = self.files.get(&file.0)?.inode;
        Some(Orphan { inode, offset: *offset, bytes: buffer.as_slice()[..*len as usize].to_vec() })
    }

    fn perform_alive(&mut self, pending: Pending) -> Completion {
        let Pending { token, op, fault, .. } = pending;
        let (kind, _) = kind_of(&op);
        let name = self.name_of(&op);
        let offset = match &op {
            Op::Write { offset, .. } | Op::Read { offset, .. } => Some(*offset),
            _ => None,
        };
        let error = |errno: i32| DiskError { op: kind.name(), name: name.clone(), offset, errno };
        if let Some(FaultKind::Errno(errno)) = fault {
            let buffer = match op {
                Op::Write { buffer, .. } | Op::Read { buffer, .. } => Some(buffer),
                _ => None,
            };
            return Completion { token, result: Err(error(errno)), buffer };
        }
        let mut returned = None;
        let platter_rc = self.platter.clone();
        let mut platter = platter_rc.borrow_mut();
        let result = match op {
            Op::Open { name, mode } => self.open(&mut platter, name, mode),
            Op::Close { file } => match self.files.remove(&file.0) {
                Some(_) => Ok(Done::Ok),
                None => Err(libc::EBADF),
            },
            Op::Write { file, offset, buffer, len, durable } => {
                let result = self.write(
                    &mut platter,
                    file,
                    offset,
                    &buffer.as_slice()[..len as usize],
                    durable,
                    fault,
                );
                returned = Some(buffer);
                result
            }
            Op::Read { file, offset, mut buffer, len } => {
                let result =
                    self.read(&platter, file, offset, &mut buffer.as_mut_slice()[..len as usize], fault);
                returned = Some(buffer);
                result
            }
            Op::Sync { file } => self.sync(&mut platter, file),
            Op::Rename { from, to } => self.rename(&mut platter, from, to),
            Op::Unlink { name } => match platter.names.contains_key(&name) {
                true => {
                    platter.change(DirChange::Unlink { name });
                    Ok(Done::Ok)
                }
                false => Err(libc::ENOENT),
            },
            Op::SyncDir => {
                platter.sync_dir();
                Ok(Done::Ok)
            }
            Op::List => Ok(Done::Listed(platter.list())),
        };
        Completion { token, result: result.map_err(error), buffer: returned }
    }

    fn sync(&self, platter: &mut Platter, file: FileId) -> Result<Done, i32> {
        let inode = self.files.get(&file.0).ok_or(libc::EBADF)?.inode;
        platter.settle(inode);
        if let Some(file) = platter.inodes.get_mut(&inode) {
            file.sync();
        }
        Ok(Done::Ok)
    }

    fn rename(&mut self, platter: &mut Platter, from: String, to: String) -> Result<Done, i32> {
        if !platter.names.contains_key(&from) {
            return Err(libc::ENOENT);
        }
        for handle in self.files.values_mut().filter(|h| h.name == from) {
            handle.name.clone_from(&to);
        }
        platter.change(DirChange::Rename { from, to });
        Ok(Done::Ok)
    }

    fn open(&mut self, platter: &mut Platter, name: String, mode: OpenMode) -> Result<Done, i32> {
        if name.is_empty() || name.contains('/') || name.contains('\0') {
            return Err(libc::EINVAL);
        }
        let inode = match (platter.names.get(&name), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(libc::EEXIST),
            (Some(&inode), _) => inode,
            (None, OpenMode::CreateNew) => platter.create(&name),
            (None, _) => return Err(libc::ENOENT),
        };
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, Handle { inode, name, writable: mode != OpenMode::ReadOnly });
        let len = platter.inodes.get(&inode).map_or(0, |f| f.len);
        Ok(Done::Opened { file: FileId(id), len })
    }

    fn write(
        &mut self,
        platter: &mut Platter,
        file: FileId,
        offset: u64,
        bytes: &[u8],
        durable: bool,
        fault: Option<FaultKind>,
    ) -> Result<Done, i32> {
        let Some(handle) = self.files.get(&file.0) else { return Err(libc::EBADF) };
        if !handle.writable {
            return Err(libc::EBADF);
        }
        if !offset.is_multiple_of(ALIGNMENT as u64) || !bytes.len().is_multiple_of(ALIGNMENT) {
            return Err(libc::EINVAL);
        }
        let mut len = bytes.len();
        match fault {
            Some(FaultKind::Short(short)) => len = len.min(short as usize),
            Some(FaultKind::Lost) => return Ok(Done::Transferred(len as u32)),
            _ => {}
        }
        let free = platter.capacity.saturating_sub(platter.used_bytes());
        let Some(data) = platter.inodes.get_mut(&handle.inode) else { return Err(libc::EBADF) };
        let longer = (offset + len as u64).saturating_sub(data.len);
        if longer > free {
            let fits = (len as u64 - (longer - free)) / ALIGNMENT as u64 * ALIGNMENT as u64;
            if fits == 0 {
                return Err(libc::ENOSPC);
            }
            len = fits as usize;
        }
        data.write(offset, &bytes[..len], durable && len == bytes.len());
        Ok(Done::Transferred(len as u32))
    }

    fn read(
        &self,
        platter: &Platter,
        file: FileId,
        offset: u64,
        out: &mut [u8],
        fault: Option<FaultKind>,
    ) -> Result<Done, i32> {
        let Some(handle) = self.files.get(&file.0) else { return Err(libc::EBADF) };
        let Some(data) = platter.inodes.get(&handle.inode) else { return Err(libc::EBADF) };
        if !offset.is_multiple_of(ALIGNMENT as u64) || !out.len().is_multiple_of(ALIGNMENT) {
            return Err(libc::EINVAL);
        }
        let len = match fault {
            Some(FaultKind::Short(short)) => out.len().min(short as usize),
            _ => out.len(),
        };
        Ok(Done::Transferred(data.read(offset, &mut out[..len]) as u32))
    }
}
