//! Performing one operation of the simulated disk.

use super::fate::Random;
use super::fault::FaultKind;
use super::platter::{DirChange, Platter, SECTOR};
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
                self.orphan(&pending.op);
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

    /// Leaves an operation behind that was under way when its process died.
    pub(super) fn orphan(&self, op: &Op) {
        let Op::Write { file, offset, buffer, len, .. } = op else { return };
        let Some(handle) = self.files.get(&file.0) else { return };
        let bytes = buffer.as_slice()[..*len as usize].to_vec();
        self.platter.borrow_mut().orphan(handle.inode, *offset, bytes);
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
            Op::Sync { file } => self.sync(&mut platter, file, fault),
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

    fn sync(&self, platter: &mut Platter, file: FileId, fault: Option<FaultKind>) -> Result<Done, i32> {
        let inode = self.files.get(&file.0).ok_or(libc::EBADF)?.inode;
        platter.settle(inode);
        let Some(file) = platter.inodes.get_mut(&inode) else { return Ok(Done::Ok) };
        if let Some(FaultKind::Forgets(errno)) = fault {
            file.forget();
            return Err(errno);
        }
        file.sync();
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
        let asked = bytes.len();
        let mut len = asked;
        match fault {
            Some(FaultKind::Short(short)) => len = len.min(short as usize),
            Some(FaultKind::Lost) => return Ok(Done::Transferred(len as u32)),
            _ => {}
        }
        let free = platter.capacity.saturating_sub(platter.used_bytes());
        let Some(data) = platter.inodes.get_mut(&handle.inode) else { return Err(libc::EBADF) };
        let longer = (offset + len as u64).saturating_sub(data.len);
        if longer > free {
            // What lies between the end of the file and the write takes room as well.
            let fits = (len as u64).saturating_sub(longer - free) / ALIGNMENT as u64 * ALIGNMENT as u64;
            if fits == 0 {
                return Err(libc::ENOSPC);
            }
            len = fits as usize;
        }
        let bytes = &bytes[..len];
        let durable = durable && len == asked;
        match fault {
            Some(FaultKind::Torn { sectors, errno }) => {
                let mut torn = vec![0; len];
                data.read(offset, &mut torn);
                let sector = |number: usize| number * SECTOR..((number + 1) * SECTOR).min(len);
                for range in (0..len.div_ceil(SECTOR)).filter(|n| sectors >> (n % 64) & 1 == 1).map(sector) {
                    torn[range.clone()].copy_from_slice(&bytes[range]);
                }
                data.write(offset, &torn, durable);
                if errno != 0 {
                    return Err(errno);
                }
            }
            Some(FaultKind::Misdirected { block }) => {
                data.write(wrong_place(data.len, len, block), bytes, durable);
            }
            Some(what @ (FaultKind::Flip { .. } | FaultKind::Garbage { .. })) => {
                let mut changed = bytes.to_vec();
                spoil(&mut changed, what);
                data.write(offset, &changed, durable);
            }
            _ => data.write(offset, bytes, durable),
        }
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
        let out = &mut out[..len];
        if let Some(errno) = data.unreadable(offset, len) {
            return Err(errno);
        }
        let bytes = match fault {
            Some(FaultKind::Stale) => data.read_stale(offset, out),
            Some(FaultKind::Misdirected { block }) => {
                let bytes = data.read(offset, out);
                data.read(wrong_place(data.len, bytes, block), &mut out[..bytes])
            }
            _ => data.read(offset, out),
        };
        if let Some(what) = fault {
            spoil(&mut out[..bytes], what);
        }
        Ok(Done::Transferred(bytes as u32))
    }
}

/// Where in a file of `file_bytes` a misdirected transfer of `bytes` goes: inside of it.
fn wrong_place(file_bytes: u64, bytes: usize, block: u32) -> u64 {
    let places = (file_bytes.saturating_sub(bytes as u64) / ALIGNMENT as u64) + 1;
    u64::from(block) % places * ALIGNMENT as u64
}

/// What happens to bytes on their way.
pub(super) fn spoil(bytes: &mut [u8], what: FaultKind) {
    if bytes.is_empty() {
        return;
    }
    match what {
        FaultKind::Flip { at, mask } => {
            let at = at as usize % bytes.len();
            bytes[at] ^= mask;
        }
        FaultKind::Garbage { sector, seed } => {
            let sector = sector as usize % bytes.len().div_ceil(SECTOR);
            let end = ((sector + 1) * SECTOR).min(bytes.len());
            let mut random = Random::new(u64::from(seed));
            bytes[sector * SECTOR..end].fill_with(|| random.next() as u8);
        }
        _ => {}
    }
}
