//! The disk behind io_uring: one directory, one ring, completions announced on an eventfd.
//!
//! A ring belongs to the thread that built it (`SINGLE_ISSUER`); it is not `Send`. Writes and reads of segments, syncs,
//! opens, renames and removals run through the ring. Only closing a file and listing the directory are direct calls.

mod entry;
mod files;
mod lock;
mod probe;
mod setup;

pub(crate) use self::lock::LOCK_FILE;

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

use io_uring::IoUring;

use self::entry::LINKED_SYNC;
pub use self::setup::{DiskFacts, DurableChoice, DurableWrites, RingError, RingOptions};
use crate::buffer::{Buffer, Spares};
use crate::disk::{Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token};

/// Files in the ring's table of registered files; files beyond it work too, at the price of a reference per operation.
const REGISTERED_FILES: u32 = 1024;
/// Rounds of one poll at most, while the kernel reports more completions.
const ROUNDS_MAX: u32 = 8;
/// Of io_uring_enter: take completions.
const ENTER_GETEVENTS: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Free,
    Open(OpenMode),
    Write,
    Read,
    Sync,
    Rename,
    Unlink,
    SyncDir,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Free => "nothing",
            Kind::Open(_) => "open",
            Kind::Write => "write",
            Kind::Read => "read",
            Kind::Sync => "sync",
            Kind::Rename => "rename",
            Kind::Unlink => "unlink",
            Kind::SyncDir => "sync directory",
        }
    }
}

/// An operation under way. It owns all memory that the kernel may touch on its behalf.
struct Slot {
    kind: Kind,
    token: Token,
    file: FileId,
    offset: u64,
    len: u32,
    durable: bool,
    /// Of a write with an fdatasync linked behind it: how the one of the two ended that ended first.
    half: Option<i32>,
    buffer: Option<Buffer>,
    names: Option<Box<(CString, CString)>>,
}

struct OpenFile {
    file: File,
    name: String,
}

/// A directory behind io_uring.
pub struct RingDisk {
    /// Taken out only when a drop cannot wait for the kernel.
    ring: IoUring,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots that found no room in the submission queue.
    waiting: VecDeque<u32>,
    /// Ended without the kernel.
    ready: VecDeque<Completion>,
    /// In the submission queue or in the kernel.
    in_flight: u32,
    files: Vec<Option<OpenFile>>,
    registered_files: u32,
    pool: Vec<Buffer>,
    spares: Spares,
    root: PathBuf,
    directory: File,
    event: File,
    /// Held as long as the ring lives: it is also in the ring's table of files.
    lock: File,
    facts: DiskFacts,
    background: bool,
    /// Set when io_uring_enter failed for good: every later operation ends with this error.
    broken: Option<i32>,
}

impl RingDisk {
    /// Opens a directory (which must exist) for this process alone, on a ring of its own. Blocks: a start-up operation.
    pub fn open(root: &Path, options: RingOptions) -> Result<RingDisk, RingError> {
        let io = |op: &'static str| move |source| RingError::Io { op, path: root.to_owned(), source };
        let directory = File::open(root).map_err(io("open"))?;
        let lock = lock::lock(root, options.lock_wait_ms)?;
        let direct = setup::probe_direct(root)?;
        let (file_system, durable) = setup::file_system(&directory);
        if !direct {
            tracing::warn!(path = %root.display(), file_system, "no direct I/O here: the log goes through the page cache");
        }
        if !durable {
            tracing::warn!(path = %root.display(), file_system, "this file system is in memory: nothing here is durable");
        }
        let built = setup::build_ring(&options)?;
        let ring = built.ring;
        let pool = setup::register_buffers(&ring, &options);
        let registered_files = match ring.submitter().register_files_sparse(REGISTERED_FILES) {
            Ok(()) => REGISTERED_FILES,
            Err(error) => {
                tracing::warn!(%error, "files could not be registered with the ring; operations cost more CPU");
                0
            }
        };
        if registered_files > 0 {
            // The kernel ends the operations of a killed process at its leisure. With the lock file in the ring's own table
            // the lock is held until the last of them has ended.
            let last = registered_files - 1;
            ring.submitter()
                .register_files_update(last, &[lock.as_raw_fd()])
                .map_err(io("register the lock of"))?;
        }
        let event = setup::event_fd(&ring).map_err(io("make an eventfd for"))?;
        let facts = DiskFacts {
            file_system,
            direct,
            durable,
            registered_buffers: pool.len() as u32,
            buffer_bytes: options.buffer_bytes,
            deferred: built.deferred,
            durable_writes: DurableChoice::Unprobed,
        };
        let mut disk = RingDisk {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            in_flight: 0,
            files: Vec::new(),
            registered_files: registered_files.saturating_sub(1),
            pool,
            spares: Spares::default(),
            root: root.to_owned(),
            directory,
            event,
            lock,
            facts,
            background: options.background,
            broken: None,
        };
        disk.facts.durable_writes = disk.choose_durable_writes(options.durable_writes);
        tracing::info!(path = %root.display(), how = %disk.facts.durable_writes, "durable writes");
        Ok(disk)
    }

    /// The eventfd that becomes readable when completions are waiting. It counts; read it to clear it. Completions that a
    /// [`Disk::poll`] collects itself do not wake it.
    pub fn event_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// What was found out about the disk.
    pub fn facts(&self) -> &DiskFacts {
        &self.facts
    }

    /// Operations that the device has and that have not been collected. A write with a sync linked behind it is one.
    pub fn in_flight(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }

    fn name_of(&self, file: FileId) -> String {
        match self.files.get(file.0 as usize) {
            Some(Some(open)) => open.name.clone(),
            _ => format!("file {}", file.0),
        }
    }

    fn fail_now(&mut self, token: Token, op: &'static str, name: String, errno: i32, buffer: Option<Buffer>) {
        let error = DiskError { op, name, offset: None, errno };
        self.ready.push_back(Completion { token, result: Err(error), buffer });
    }

    fn slot(&mut self, kind: Kind, token: Token) -> u32 {
        let fresh = Slot {
            kind,
            token,
            file: FileId(u32::MAX),
            offset: 0,
            len: 0,
            durable: false,
            half: None,
            buffer: None,
            names: None,
        };
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = fresh;
                index
            }
            None => {
                self.slots.push(fresh);
                self.slots.len() as u32 - 1
            }
        }
    }

    /// Queues a slot's operation, behind those that wait already.
    fn start(&mut self, index: u32) {
        if !self.waiting.is_empty() || !self.push(index) {
            self.waiting.push_back(index);
        }
    }

    fn push(&mut self, index: u32) -> bool {
        let Some((entry, sync)) = self.entries(index) else {
            let slot = &mut self.slots[index as usize];
            let (token, op, file) = (slot.token, slot.kind.name(), slot.file);
            let buffer = slot.buffer.take();
            slot.kind = Kind::Free;
            self.free.push(index);
            let name = self.name_of(file);
            self.fail_now(token, op, name, libc::EBADF, buffer);
            return true;
        };
        let (pushed, operations) = match sync {
            None => {
                // SAFETY: buffer and names that the entry points to are owned by the slot, which is not touched until the
                // completion is taken, and file descriptors stay open until `Close`, which is a promise of the caller that
                // nothing is under way.
                (unsafe { self.ring.submission().push(&entry) }.is_ok(), 1)
            }
            Some(sync) => {
                // SAFETY: as above; the sync names the file alone. Both or none are queued, so that nothing comes between
                // the links.
                (unsafe { self.ring.submission().push_multiple(&[entry, sync]) }.is_ok(), 2)
            }
        };
        if pushed {
            self.in_flight += operations;
        }
        pushed
    }

    /// One system call that submits what is queued and takes what is complete.
    fn enter(&mut self, wait_for: u32) {
        let queued = self.ring.submission().len() as u32;
        // SAFETY: the arguments are those of io_uring_enter without a signal mask; no memory is passed.
        let result =
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, wait_for, ENTER_GETEVENTS, None) };
        let Err(error) = result else { return };
        match error.raw_os_error() {
            Some(libc::EINTR) | Some(libc::EAGAIN) | Some(libc::EBUSY) => {}
            errno => {
                tracing::error!(%error, "io_uring_enter failed: the disk is given up");
                self.broken = Some(errno.unwrap_or(libc::EIO));
            }
        }
    }

    /// Whether the kernel holds completions back until it is entered.
    fn taskrun(&mut self) -> bool {
        self.facts.deferred && self.ring.submission().taskrun()
    }

    fn turn(&mut self, wait: bool, out: &mut Vec<Completion>) {
        let before = out.len();
        out.extend(self.ready.drain(..));
        for _ in 0..ROUNDS_MAX {
            while let Some(&index) = self.waiting.front() {
                if !self.push(index) {
                    break;
                }
                self.waiting.pop_front();
            }
            out.extend(self.ready.drain(..));
            let must_wait =
                wait && out.len() == before && self.in_flight > 0 && self.ring.completion().is_empty();
            let queued = !self.ring.submission().is_empty();
            if self.broken.is_none() && (queued || must_wait || self.taskrun()) {
                // What this call collects needs no wake.
                self.ring.completion().disable_eventfd();
                self.enter(u32::from(must_wait));
                self.reap(out);
                self.ring.completion().enable_eventfd();
                // The kernel looks at the flag after it announced a completion; we look for completions after setting it.
                fence(Ordering::SeqCst);
            } else {
                self.reap(out);
            }
            let more = self.taskrun() || !self.ring.completion().is_empty() || !self.waiting.is_empty();
            let starved = wait && out.len() == before && self.in_flight > 0 && self.broken.is_none();
            if !more && !starved {
                break;
            }
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            self.in_flight -= 1;
            if let Some(result) = self.join(entry.user_data(), entry.result()) {
                let completion = self.complete(entry.user_data() as u32, result);
                out.push(completion);
            }
        }
    }

    /// The result of an operation whose last part has ended. A write that fails or is short takes the sync linked behind it
    /// along (ECANCELED), and is what went wrong; if the sync alone fails nothing is known about the bytes.
    fn join(&mut self, user_data: u64, result: i32) -> Option<i32> {
        let slot = &mut self.slots[user_data as u32 as usize];
        if slot.kind != Kind::Write || !slot.durable || !self.facts.durable_writes.is_linked() {
            return Some(result);
        }
        let Some(other) = slot.half.take() else {
            slot.half = Some(result);
            return None;
        };
        let (written, synced) = if user_data & LINKED_SYNC != 0 { (other, result) } else { (result, other) };
        let whole = u32::try_from(written) == Ok(slot.len);
        Some(if whole && synced < 0 { synced } else { written })
    }

    fn complete(&mut self, index: u32, result: i32) -> Completion {
        let slot = &mut self.slots[index as usize];
        let (kind, token, file, offset) = (slot.kind, slot.token, slot.file, slot.offset);
        let buffer = slot.buffer.take();
        let names = slot.names.take();
        slot.kind = Kind::Free;
        self.free.push(index);
        let name = |disk: &RingDisk| match &names {
            Some(names) => names.0.to_string_lossy().into_owned(),
            None if kind == Kind::SyncDir => ".".to_owned(),
            None => disk.name_of(file),
        };
        let result = if result < 0 {
            let offset = matches!(kind, Kind::Write | Kind::Read).then_some(offset);
            Err(DiskError { op: kind.name(), name: name(self), offset, errno: -result })
        } else {
            match kind {
                Kind::Write | Kind::Read => Ok(Done::Transferred(result as u32)),
                Kind::Open(_) => {
                    // SAFETY: the kernel just returned this descriptor as the result of an open; it belongs to nobody else.
                    let opened = unsafe { File::from_raw_fd(result) };
                    let name = name(self);
                    self.opened(opened, name)
                }
                _ => Ok(Done::Ok),
            }
        };
        Completion { token, result, buffer }
    }

    fn submit_names(&mut self, kind: Kind, token: Token, first: String, second: String) {
        let valid = |name: &str| !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        let bad = !valid(&first) || (kind == Kind::Rename && !valid(&second));
        match (CString::new(first.as_str()), CString::new(second)) {
            (Ok(a), Ok(b)) if !bad => {
                let index = self.slot(kind, token);
                self.slots[index as usize].names = Some(Box::new((a, b)));
                self.start(index);
            }
            _ => self.fail_now(token, kind.name(), first, libc::EINVAL, None),
        }
    }
}

impl crate::Buggify for RingDisk {}

impl Disk for RingDisk {
    fn submit(&mut self, token: Token, op: Op) {
        if let Some(errno) = self.broken {
            let buffer = match op {
                Op::Write { buffer, .. } | Op::Read { buffer, .. } => Some(buffer),
                _ => None,
            };
            return self.fail_now(token, "submit", self.root(), errno, buffer);
        }
        match op {
            Op::Open { name, mode } => self.submit_names(Kind::Open(mode), token, name, String::new()),
            Op::Rename { from, to } => self.submit_names(Kind::Rename, token, from, to),
            Op::Unlink { name } => self.submit_names(Kind::Unlink, token, name, String::new()),
            Op::Close { file } => {
                let result = self.close(file);
                self.ready.push_back(Completion { token, result, buffer: None });
            }
            Op::List => {
                let result = self.list();
                self.ready.push_back(Completion { token, result, buffer: None });
            }
            Op::Write { file, offset, buffer, len, durable } => {
                assert!(len as usize <= buffer.capacity(), "a write of {len} bytes from {buffer:?}");
                let index = self.slot(Kind::Write, token);
                let slot = &mut self.slots[index as usize];
                (slot.file, slot.offset, slot.len, slot.durable) = (file, offset, len, durable);
                slot.buffer = Some(buffer);
                self.start(index);
            }
            Op::Read { file, offset, buffer, len } => {
                assert!(len as usize <= buffer.capacity(), "a read of {len} bytes into {buffer:?}");
                let index = self.slot(Kind::Read, token);
                let slot = &mut self.slots[index as usize];
                (slot.file, slot.offset, slot.len) = (file, offset, len);
                slot.buffer = Some(buffer);
                self.start(index);
            }
            Op::Sync { file } => {
                let index = self.slot(Kind::Sync, token);
                self.slots[index as usize].file = file;
                self.start(index);
            }
            Op::SyncDir => {
                let index = self.slot(Kind::SyncDir, token);
                self.start(index);
            }
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.turn(false, completions);
    }

    fn wait(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        loop {
            self.turn(true, completions);
            let idle = self.in_flight == 0 && self.waiting.is_empty() && self.ready.is_empty();
            if completions.len() > before || idle || self.broken.is_some() {
                return;
            }
        }
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        // Small operations leave the registered buffers to the batches of the log.
        let size = self.facts.buffer_bytes as usize;
        if len <= size
            && len * 2 > size
            && let Some(buffer) = self.pool.pop()
        {
            return buffer;
        }
        self.spares.take(len).unwrap_or_else(|| Buffer::heap(len))
    }

    fn recycle(&mut self, buffer: Buffer) {
        match buffer.registered() {
            Some(_) => self.pool.push(buffer),
            None => self.spares.put(buffer),
        }
    }

    fn free_bytes(&mut self) -> u64 {
        rustix::fs::fstatvfs(&self.directory).map_or(0, |s| s.f_bavail * s.f_frsize)
    }

    fn total_bytes(&mut self) -> u64 {
        rustix::fs::fstatvfs(&self.directory).map_or(0, |s| s.f_blocks * s.f_frsize)
    }

    fn describe(&self) -> String {
        let facts = &self.facts;
        format!(
            "{} at {}: {}{}, {}, io_uring{} with {} registered buffers of {} KiB",
            facts.file_system,
            self.root.display(),
            if facts.durable { "" } else { "NOT DURABLE (a file system in memory), " },
            facts.durable_writes,
            if facts.direct { "O_DIRECT" } else { "buffered (no O_DIRECT here)" },
            if facts.deferred { " (DEFER_TASKRUN)" } else { "" },
            facts.registered_buffers,
            facts.buffer_bytes >> 10,
        )
    }

    fn root(&self) -> String {
        self.root.display().to_string()
    }
}

impl Drop for RingDisk {
    fn drop(&mut self) {
        // The kernel may still write into buffers of operations under way: they must end before the memory is freed.
        let mut ended = Vec::new();
        while self.in_flight > 0 && self.broken.is_none() {
            self.enter(1);
            self.reap(&mut ended);
        }
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.slots));
            return;
        }
        // Nothing is under way, so the next process need not wait for the kernel to tear the ring down. If this fails the
        // lock goes with the ring.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}
