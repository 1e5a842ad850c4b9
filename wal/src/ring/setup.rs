//! Building a ring: what the kernel and the file system can do, found out once.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::{Path, PathBuf};

use io_uring::IoUring;

use crate::buffer::Buffer;
use crate::disk::ALIGNMENT;

/// Settings of a ring.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// Buffers registered with the kernel. Together they count against the locked-memory limit of the process.
    pub buffers: u32,
    /// Bytes of each registered buffer.
    pub buffer_bytes: u32,
    /// Length of the submission queue, a power of two. Operations beyond it wait in memory.
    pub queue_entries: u32,
    /// How long to retry the lock of the directory: the kernel may need a moment to end the operations of a process that
    /// was just killed, and holds the lock until then.
    pub lock_wait_ms: u32,
    /// How writes are made durable.
    pub durable_writes: DurableWrites,
    /// Reads and writes are started by threads of the kernel, with the lowest priority that is sure to get on: what that costs (memory
    /// to be pinned, blocks to be allocated, the device to be told) is not taken from the caller's time. For large operations that
    /// nobody waits for; each of them takes longer.
    pub background: bool,
}

/// How a durable write is made durable. Both are submitted with one system call for all that is queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurableWrites {
    /// The one that a short probe finds faster when the disk is opened: a few writes of each into a scratch file.
    #[default]
    Auto,
    /// Writes with RWF_DSYNC: the device is told to write through where it can.
    Dsync,
    /// A write and an fdatasync linked behind it: the device's cache is flushed.
    Fsync,
}

impl Default for RingOptions {
    fn default() -> RingOptions {
        RingOptions {
            buffers: 6,
            buffer_bytes: 256 << 10,
            queue_entries: 128,
            lock_wait_ms: 2000,
            durable_writes: DurableWrites::Auto,
            background: false,
        }
    }
}

/// Why a ring could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The kernel has no io_uring.
    #[error(
        "this kernel has no io_uring (io_uring_setup: {source}). Linux 5.15 or newer with CONFIG_IO_URING is needed; \
             6.1 or newer is recommended. Under gVisor or WSL1 it is missing"
    )]
    Missing {
        /// The error of io_uring_setup.
        source: io::Error,
    },
    /// io_uring is there and not allowed.
    #[error("io_uring is forbidden here (io_uring_setup: {source}). {hint}")]
    Forbidden {
        /// What to do.
        hint: String,
        /// The error of io_uring_setup.
        source: io::Error,
    },
    /// Not enough locked memory for the ring itself.
    #[error(
        "io_uring needs more locked memory than RLIMIT_MEMLOCK ({limit} bytes) allows: raise it with `ulimit -l`, \
             LimitMEMLOCK= of systemd or --ulimit memlock=-1 of the container ({source})"
    )]
    LockedMemory {
        /// The limit.
        limit: u64,
        /// The error of io_uring_setup.
        source: io::Error,
    },
    /// Another process works on the directory.
    #[error("{} is in use by another process{}: stop it first, or name another directory",
            path.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, if it is known.
        pid: Option<u32>,
    },
    /// Something about the directory failed.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// Which file.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

/// What was found out about a directory's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// Name of the file system.
    pub file_system: &'static str,
    /// Files are opened with O_DIRECT.
    pub direct: bool,
    /// What is reported durable survives a power loss, as far as the device tells the truth: false for memory file systems.
    pub durable: bool,
    /// Buffers registered with the kernel.
    pub registered_buffers: u32,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Completions are taken only when asked for (DEFER_TASKRUN).
    pub deferred: bool,
    /// How writes are made durable, and why so.
    pub durable_writes: DurableChoice,
}

/// How the ring makes writes durable, and what made it choose so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurableChoice {
    /// It was told to.
    Set(DurableWrites),
    /// It measured: the median times of one write, in microseconds.
    Probed {
        /// What was chosen.
        chosen: DurableWrites,
        /// With RWF_DSYNC.
        dsync_us: u32,
        /// With a linked fdatasync.
        fsync_us: u32,
    },
    /// There was nothing to measure (a file system in memory) or no room for it: RWF_DSYNC.
    Unprobed,
}

impl DurableChoice {
    /// Whether writes are linked with an fdatasync.
    pub fn is_linked(&self) -> bool {
        let chosen = match self {
            DurableChoice::Set(chosen) | DurableChoice::Probed { chosen, .. } => *chosen,
            DurableChoice::Unprobed => DurableWrites::Dsync,
        };
        chosen == DurableWrites::Fsync
    }
}

impl std::fmt::Display for DurableChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_linked() { "write + fdatasync" } else { "RWF_DSYNC writes" })?;
        match self {
            DurableChoice::Set(_) => f.write_str(" (as set)"),
            DurableChoice::Probed { dsync_us, fsync_us, .. } => {
                write!(f, " (probe: {dsync_us} us with RWF_DSYNC, {fsync_us} us with fdatasync)")
            }
            DurableChoice::Unprobed => f.write_str(" (not probed)"),
        }
    }
}

pub(super) struct Built {
    pub(super) ring: IoUring,
    pub(super) deferred: bool,
}

/// A ring with the best flags this kernel knows.
pub(super) fn build_ring(options: &RingOptions) -> Result<Built, RingError> {
    let entries = options.queue_entries.next_power_of_two().clamp(8, 4096);
    let best = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_clamp()
        .setup_cqsize(entries * 4)
        .build(entries);
    match best {
        Ok(ring) => return Ok(Built { ring, deferred: true }),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => return Err(setup_error(error)),
    }
    match IoUring::builder().setup_clamp().setup_cqsize(entries * 4).build(entries) {
        Ok(ring) => {
            tracing::warn!(
                "this kernel is older than 6.1: the ring runs without DEFER_TASKRUN, writes cost more CPU"
            );
            Ok(Built { ring, deferred: false })
        }
        Err(error) => Err(setup_error(error)),
    }
}

fn setup_error(source: io::Error) -> RingError {
    match source.raw_os_error() {
        Some(libc::ENOSYS) => RingError::Missing { source },
        Some(libc::ENOMEM) => RingError::LockedMemory { limit: memlock_limit(), source },
        _ => {
            let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
            let hint = match sysctl.trim() {
                "1" => {
                    "kernel.io_uring_disabled is 1: `sysctl kernel.io_uring_disabled=0`, or run as a member of \
                        kernel.io_uring_group"
                }
                "2" => "kernel.io_uring_disabled is 2: `sysctl kernel.io_uring_disabled=0`",
                _ => {
                    "The container's seccomp profile probably blocks it: allow io_uring_setup, io_uring_enter and \
                      io_uring_register, or run with --security-opt seccomp=unconfined"
                }
            };
            RingError::Forbidden { hint: hint.to_owned(), source }
        }
    }
}

/// RLIMIT_MEMLOCK of the process in bytes; `u64::MAX` if there is none.
pub(super) fn memlock_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current.unwrap_or(u64::MAX)
}

/// Registers the pool of buffers; an empty pool, with a warning that says what to do, if the limits do not allow it.
pub(super) fn register_buffers(ring: &IoUring, options: &RingOptions) -> Vec<Buffer> {
    let mut count = options.buffers.min(1024);
    while count > 0 {
        let mut pool: Vec<Buffer> = (0..count).map(|_| Buffer::heap(options.buffer_bytes as usize)).collect();
        let iovecs: Vec<libc::iovec> = pool
            .iter_mut()
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.capacity() })
            .collect();
        // SAFETY: every iovec names memory that a `Buffer` owns. The kernel takes references to the pages, and an operation
        // names them only through a `Buffer` that carries the index and that the ring owns while the operation runs.
        match unsafe { ring.submitter().register_buffers(&iovecs) } {
            Ok(()) => {
                for (index, buffer) in pool.iter_mut().enumerate() {
                    buffer.set_registered(u16::try_from(index).ok());
                }
                if count < options.buffers {
                    warn_buffers(options, count, "fewer are registered");
                }
                return pool;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => count /= 2,
            Err(error) => {
                tracing::warn!(%error, "buffers could not be registered with the ring; writes cost more CPU");
                return Vec::new();
            }
        }
    }
    if options.buffers > 0 {
        warn_buffers(options, 0, "none is registered, writes cost more CPU");
    }
    Vec::new()
}

fn warn_buffers(options: &RingOptions, registered: u32, what: &str) {
    tracing::warn!(
        wanted = options.buffers,
        registered,
        buffer_bytes = options.buffer_bytes,
        memlock_limit_bytes = memlock_limit(),
        "RLIMIT_MEMLOCK is too small for the ring's buffers: {what}. Raise it with `ulimit -l`, LimitMEMLOCK= of systemd \
         or --ulimit memlock=-1 of the container"
    );
}

/// Finds out whether files of the directory take direct I/O at our alignment.
pub(super) fn probe_direct(root: &Path) -> Result<bool, RingError> {
    let io = |op: &'static str| move |source| RingError::Io { op, path: root.to_owned(), source };
    let file = match open_probe(root, libc::O_DIRECT) {
        Ok(file) => file,
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL) | Some(libc::EOPNOTSUPP)) => {
            return Ok(false);
        }
        // A full disk has no room for the probe. Direct I/O is the rule; opening the files will tell.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC) | Some(libc::EDQUOT)) => {
            return Ok(true);
        }
        Err(error) => return Err(io("create a file in")(error)),
    };
    let stat = statx_dio(&file).map_err(io("statx a file in"))?;
    if stat.stx_mask & libc::STATX_DIOALIGN != 0 {
        let fits = |align: u32| align != 0 && (align as usize) <= ALIGNMENT;
        return Ok(fits(stat.stx_dio_mem_align) && fits(stat.stx_dio_offset_align));
    }
    // Kernels before 6.1 do not say: try it.
    let buffer = Buffer::heap(ALIGNMENT);
    match rustix::io::pwrite(&file, buffer.as_slice(), 0) {
        Ok(_) => Ok(true),
        Err(error) => Ok(error.raw_os_error() != libc::EINVAL),
    }
}

/// A nameless file; where the file system has none, one with a name that is removed at once.
pub(super) fn open_probe(root: &Path, flags: i32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.custom_flags(libc::O_TMPFILE | flags).open(root) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        other => return other,
    }
    let path = root.join(".direct-io-probe");
    let file = options.custom_flags(flags).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn statx_dio(file: &File) -> io::Result<libc::statx> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let empty: &CStr = c"";
    // SAFETY: the file descriptor is open, the path is a terminated string and the result has room for one statx.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_BASIC_STATS | libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, and the value was zeroed before, a valid statx by itself.
    Ok(unsafe { stat.assume_init() })
}

/// Name of the directory's file system, and whether it keeps anything over a power loss.
pub(super) fn file_system(root: &File) -> (&'static str, bool) {
    let kind = rustix::fs::fstatfs(root).map(|s| s.f_type as u64).unwrap_or(0);
    match kind {
        0xEF53 => ("ext4", true),
        0x5846_5342 => ("xfs", true),
        0x9123_683E => ("btrfs", true),
        0x2FC1_2FC1 => ("zfs", true),
        0xF2F5_2010 => ("f2fs", true),
        0x6969 => ("nfs", true),
        0x794C_7630 => ("overlayfs", true),
        0x0102_1994 => ("tmpfs", false),
        0x8584_58F6 => ("ramfs", false),
        _ => ("unknown file system", true),
    }
}

/// An event counter for completions, registered with the ring.
pub(super) fn event_fd(ring: &IoUring) -> io::Result<File> {
    // Blocking on purpose: a read of it through another ring must wait, and a non-blocking file answers EAGAIN there.
    // SAFETY: eventfd takes no pointers.
    let fd: RawFd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    ring.submitter().register_eventfd(fd)?;
    Ok(file)
}
