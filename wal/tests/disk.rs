//! One suite that every disk passes: the ring on a real directory, and the simulated one.
#![allow(clippy::unwrap_used)]

use logdrive_wal::{
    ALIGNMENT, Completion, Disk, DiskError, Done, DurableChoice, DurableWrites, FileId, Op, OpenMode,
    RingDisk, RingOptions, SimDisk, SimOptions, SimPlatter, Token,
};

/// Makes disks of one directory: a first one, and after it is gone another one.
trait Factory {
    type Disk: Disk;
    fn open(&self) -> Self::Disk;
    /// A second one while the first is open.
    fn is_refused(&self) -> bool;
}

struct Ring(tempfile::TempDir, RingOptions);

impl Factory for Ring {
    type Disk = RingDisk;
    fn open(&self) -> RingDisk {
        RingDisk::open(self.0.path(), self.1.clone()).unwrap()
    }
    fn is_refused(&self) -> bool {
        let options = RingOptions { lock_wait_ms: 100, ..self.1.clone() };
        match RingDisk::open(self.0.path(), options) {
            Err(logdrive_wal::RingError::Locked { pid, .. }) => pid == Some(std::process::id()),
            _ => false,
        }
    }
}

struct Sim(SimPlatter);

impl Factory for Sim {
    type Disk = SimDisk;
    fn open(&self) -> SimDisk {
        self.0.open().unwrap()
    }
    fn is_refused(&self) -> bool {
        self.0.open().is_err()
    }
}

fn ring() -> Ring {
    Ring(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), RingOptions::default())
}

/// As where RLIMIT_MEMLOCK allows nothing, with a queue that is soon full, and in the background.
fn bare_ring() -> Ring {
    let options = RingOptions { buffers: 0, queue_entries: 8, background: true, ..RingOptions::default() };
    Ring(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), options)
}

/// Writes are made durable by an fdatasync linked behind each, in a queue that holds four such pairs.
fn linked_ring() -> Ring {
    let options =
        RingOptions { durable_writes: DurableWrites::Fsync, queue_entries: 8, ..RingOptions::default() };
    Ring(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), options)
}

fn dsync_ring() -> Ring {
    let options = RingOptions { durable_writes: DurableWrites::Dsync, ..RingOptions::default() };
    Ring(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), options)
}

/// On a file system in memory, if there is one.
fn memory_ring() -> Ring {
    let shm = std::path::Path::new("/dev/shm");
    let directory = if shm.is_dir() { shm } else { std::path::Path::new(env!("CARGO_TARGET_TMPDIR")) };
    Ring(tempfile::tempdir_in(directory).unwrap(), RingOptions::default())
}

fn sim() -> Sim {
    Sim(SimDisk::new(SimOptions::default()).platter())
}

fn perform<D: Disk>(disk: &mut D, op: Op) -> Completion {
    disk.submit(Token(77), op);
    let mut completions = Vec::new();
    while completions.is_empty() {
        disk.wait(&mut completions);
    }
    assert_eq!(completions.len(), 1);
    let completion = completions.pop().unwrap();
    assert_eq!(completion.token, Token(77));
    completion
}

fn ok<D: Disk>(disk: &mut D, op: Op) -> Done {
    perform(disk, op).result.unwrap()
}

fn fails<D: Disk>(disk: &mut D, op: Op) -> DiskError {
    perform(disk, op).result.unwrap_err()
}

fn open<D: Disk>(disk: &mut D, name: &str, mode: OpenMode) -> (FileId, u64) {
    match ok(disk, Op::Open { name: name.to_owned(), mode }) {
        Done::Opened { file, len } => (file, len),
        other => panic!("{other:?}"),
    }
}

fn write<D: Disk>(disk: &mut D, file: FileId, offset: u64, fill: u8, len: u32, durable: bool) {
    let mut buffer = disk.buffer(len as usize);
    buffer.as_mut_slice()[..len as usize].fill(fill);
    let completion = perform(disk, Op::Write { file, offset, buffer, len, durable });
    assert!(matches!(completion.result, Ok(Done::Transferred(n)) if n == len), "{:?}", completion.result);
    disk.recycle(completion.buffer.unwrap());
}

fn read<D: Disk>(disk: &mut D, file: FileId, offset: u64, len: u32) -> Vec<u8> {
    let buffer = disk.buffer(len as usize);
    let completion = perform(disk, Op::Read { file, offset, buffer, len });
    let Ok(Done::Transferred(bytes)) = completion.result else { panic!("{:?}", completion.result) };
    let buffer = completion.buffer.unwrap();
    let out = buffer.as_slice()[..bytes as usize].to_vec();
    disk.recycle(buffer);
    out
}

fn names<D: Disk>(disk: &mut D) -> Vec<(String, u64)> {
    match ok(disk, Op::List) {
        Done::Listed(names) => names,
        other => panic!("{other:?}"),
    }
}

fn name(text: &str) -> String {
    text.to_owned()
}

fn bytes_written_are_read_back(factory: &impl Factory) {
    let mut disk = factory.open();
    let (file, len) = open(&mut disk, "a", OpenMode::CreateNew);
    assert_eq!(len, 0);
    write(&mut disk, file, 0, 1, 8192, true);
    write(&mut disk, file, 16384, 2, 4096, false);
    write(&mut disk, file, 4096, 3, 4096, true);
    // A gap reads as zeros, and the end of the file cuts a read short.
    let bytes = read(&mut disk, file, 0, 32768);
    assert_eq!(bytes.len(), 20480);
    let fills: Vec<u8> = bytes.chunks(4096).map(|c| c[0]).collect();
    assert_eq!(fills, [1, 3, 0, 0, 2]);
    assert!(bytes.chunks(4096).all(|c| c.iter().all(|b| *b == c[0])));
    assert!(read(&mut disk, file, 20480, 4096).is_empty());
    ok(&mut disk, Op::Sync { file });
    ok(&mut disk, Op::SyncDir);
    ok(&mut disk, Op::Close { file });
    drop(disk);
    let mut disk = factory.open();
    let (file, len) = open(&mut disk, "a", OpenMode::ReadOnly);
    assert_eq!(len, 20480);
    assert_eq!(read(&mut disk, file, 0, 32768), bytes);
}

fn open_modes_are_kept(factory: &impl Factory) {
    let mut disk = factory.open();
    let missing = Op::Open { name: name("a"), mode: OpenMode::ReadWrite };
    assert_eq!(fails(&mut disk, missing).errno, libc::ENOENT);
    let (file, _) = open(&mut disk, "a", OpenMode::CreateNew);
    let again = Op::Open { name: name("a"), mode: OpenMode::CreateNew };
    let error = fails(&mut disk, again);
    assert_eq!((error.op, error.name.as_str(), error.errno), ("open", "a", libc::EEXIST));
    write(&mut disk, file, 0, 9, 4096, true);
    let (reader, len) = open(&mut disk, "a", OpenMode::ReadOnly);
    assert_eq!(len, 4096);
    let buffer = disk.buffer(4096);
    let refused = perform(&mut disk, Op::Write { file: reader, offset: 0, buffer, len: 4096, durable: true });
    let error = refused.result.unwrap_err();
    assert_eq!((error.op, error.offset, error.errno), ("write", Some(0), libc::EBADF));
    assert!(refused.buffer.is_some(), "the buffer of a failed write comes back");
    assert_eq!(read(&mut disk, reader, 0, 4096), [9; 4096]);
    for bad in ["", "a/b", "../a"] {
        let error = fails(&mut disk, Op::Open { name: name(bad), mode: OpenMode::CreateNew });
        assert_eq!(error.errno, libc::EINVAL, "{bad:?}");
    }
}

fn names_change_as_told(factory: &impl Factory) {
    let mut disk = factory.open();
    for (number, text) in ["c", "a", "b"].into_iter().enumerate() {
        let (file, _) = open(&mut disk, text, OpenMode::CreateNew);
        write(&mut disk, file, 0, number as u8 + 1, 4096 * (number as u32 + 1), true);
        ok(&mut disk, Op::Close { file });
    }
    assert_eq!(names(&mut disk), [(name("a"), 8192), (name("b"), 12288), (name("c"), 4096)]);
    // A rename replaces what had the name, and an open file stays the same file.
    let (file, _) = open(&mut disk, "c", OpenMode::ReadWrite);
    ok(&mut disk, Op::Rename { from: name("c"), to: name("a") });
    write(&mut disk, file, 4096, 7, 4096, true);
    assert_eq!(names(&mut disk), [(name("a"), 8192), (name("b"), 12288)]);
    let (renamed, _) = open(&mut disk, "a", OpenMode::ReadOnly);
    assert_eq!(read(&mut disk, renamed, 0, 8192).chunks(4096).map(|c| c[0]).collect::<Vec<_>>(), [1, 7]);
    ok(&mut disk, Op::Unlink { name: name("b") });
    assert_eq!(fails(&mut disk, Op::Unlink { name: name("b") }).errno, libc::ENOENT);
    assert_eq!(fails(&mut disk, Op::Rename { from: name("b"), to: name("x") }).errno, libc::ENOENT);
    // An open file outlives its name.
    ok(&mut disk, Op::Unlink { name: name("a") });
    assert_eq!(read(&mut disk, file, 4096, 4096), [7; 4096]);
    assert_eq!(names(&mut disk), []);
    ok(&mut disk, Op::SyncDir);
}

fn many_operations_are_under_way_at_once(factory: &impl Factory) {
    many_writes(factory, false);
}

fn many_durable_writes_are_under_way_at_once(factory: &impl Factory) {
    many_writes(factory, true);
}

fn many_writes(factory: &impl Factory, durable: bool) {
    let mut disk = factory.open();
    let (file, _) = open(&mut disk, "a", OpenMode::CreateNew);
    const COUNT: u64 = 400;
    for number in 0..COUNT {
        let mut buffer = disk.buffer(4096);
        buffer.as_mut_slice()[..4096].fill(number as u8);
        disk.submit(Token(number), Op::Write { file, offset: number * 4096, buffer, len: 4096, durable });
    }
    let mut seen = vec![false; COUNT as usize];
    let mut completions = Vec::new();
    while seen.iter().any(|s| !s) {
        disk.wait(&mut completions);
        for completion in completions.drain(..) {
            assert!(matches!(completion.result, Ok(Done::Transferred(4096))));
            assert!(!std::mem::replace(&mut seen[completion.token.0 as usize], true), "completed twice");
            disk.recycle(completion.buffer.unwrap());
        }
    }
    ok(&mut disk, Op::Sync { file });
    let bytes = read(&mut disk, file, 0, COUNT as u32 * 4096);
    assert!(bytes.chunks(4096).enumerate().all(|(n, c)| c.iter().all(|b| *b == n as u8)));
    // With nothing under way a wait returns.
    disk.wait(&mut completions);
    disk.poll(&mut completions);
    assert!(completions.is_empty());
}

fn closed_and_unknown_files_are_refused(factory: &impl Factory) {
    let mut disk = factory.open();
    let (file, _) = open(&mut disk, "a", OpenMode::CreateNew);
    ok(&mut disk, Op::Close { file });
    let buffer = disk.buffer(4096);
    let refused = perform(&mut disk, Op::Read { file, offset: 0, buffer, len: 4096 });
    assert_eq!(refused.result.unwrap_err().errno, libc::EBADF);
    assert!(refused.buffer.is_some());
    assert_eq!(fails(&mut disk, Op::Sync { file }).errno, libc::EBADF);
    assert_eq!(fails(&mut disk, Op::Close { file }).errno, libc::EBADF);
}

fn buffers_are_aligned_and_reused(factory: &impl Factory) {
    let mut disk = factory.open();
    for len in [1, 4096, 5000, 256 << 10, 1 << 20] {
        let buffer = disk.buffer(len);
        assert!(buffer.capacity() >= len && buffer.capacity().is_multiple_of(ALIGNMENT));
        assert!((buffer.as_slice().as_ptr() as usize).is_multiple_of(ALIGNMENT));
        let at = buffer.as_slice().as_ptr() as usize;
        disk.recycle(buffer);
        let again = disk.buffer(len);
        assert_eq!(again.as_slice().as_ptr() as usize, at, "a recycled buffer of {len} bytes is used again");
        disk.recycle(again);
    }
}

fn a_second_one_on_the_directory_is_refused(factory: &impl Factory) {
    let disk = factory.open();
    assert!(factory.is_refused());
    drop(disk);
    assert!(!factory.is_refused());
}

fn dropped_with_operations_under_way(factory: &impl Factory) {
    let mut disk = factory.open();
    let (file, _) = open(&mut disk, "a", OpenMode::CreateNew);
    write(&mut disk, file, 0, 0, 1 << 20, true);
    for number in 0..16 {
        let mut buffer = disk.buffer(64 << 10);
        buffer.as_mut_slice().fill(0xee);
        let op = Op::Write { file, offset: number * (64 << 10), buffer, len: 64 << 10, durable: true };
        disk.submit(Token(number), op);
    }
    let mut completions = Vec::new();
    disk.poll(&mut completions);
    drop(disk);
    drop(completions);
    // Each write has happened as a whole or not at all, and the directory opens again.
    let mut disk = factory.open();
    let (file, _) = open(&mut disk, "a", OpenMode::ReadWrite);
    ok(&mut disk, Op::Sync { file });
    for number in 0..16 {
        let bytes = read(&mut disk, file, number * (64 << 10), 64 << 10);
        assert!(bytes.iter().all(|b| *b == bytes[0]) && [0, 0xee].contains(&bytes[0]));
    }
}

fn space_is_told(factory: &impl Factory) {
    let mut disk = factory.open();
    let (free, total) = (disk.free_bytes(), disk.total_bytes());
    assert!(free > 0 && free <= total);
    assert!(!disk.describe().is_empty() && !disk.root().is_empty());
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod on_the_ring {
            $(#[test] fn $test() { super::$test(&super::ring()) })*
        }
        mod on_a_ring_with_linked_syncs {
            $(#[test] fn $test() { super::$test(&super::linked_ring()) })*
        }
        mod on_a_ring_with_dsync_writes {
            $(#[test] fn $test() { super::$test(&super::dsync_ring()) })*
        }
        mod on_a_ring_without_registered_buffers {
            $(#[test] fn $test() { super::$test(&super::bare_ring()) })*
        }
        mod on_a_file_system_in_memory {
            $(#[test] fn $test() { super::$test(&super::memory_ring()) })*
        }
        mod on_the_simulated_disk {
            $(#[test] fn $test() { super::$test(&super::sim()) })*
        }
    };
}

suite!(
    bytes_written_are_read_back,
    open_modes_are_kept,
    names_change_as_told,
    many_operations_are_under_way_at_once,
    many_durable_writes_are_under_way_at_once,
    closed_and_unknown_files_are_refused,
    buffers_are_aligned_and_reused,
    a_second_one_on_the_directory_is_refused,
    dropped_with_operations_under_way,
    space_is_told,
);

#[test]
fn a_file_system_in_memory_is_called_not_durable() {
    let ring = memory_ring();
    let disk = ring.open();
    if disk.facts().file_system == "tmpfs" {
        assert!(!disk.facts().durable);
        assert!(disk.describe().contains("NOT DURABLE"), "{}", disk.describe());
    }
}

#[test]
fn the_ring_says_how_it_makes_writes_durable_and_why() {
    let (linked, dsync, auto) = (linked_ring(), dsync_ring(), ring());
    let disk = linked.open();
    assert_eq!(disk.facts().durable_writes, DurableChoice::Set(DurableWrites::Fsync));
    assert!(disk.describe().contains("write + fdatasync (as set)"), "{}", disk.describe());
    let disk = dsync.open();
    assert_eq!(disk.facts().durable_writes, DurableChoice::Set(DurableWrites::Dsync));
    assert!(disk.describe().contains("RWF_DSYNC writes (as set)"), "{}", disk.describe());
    let mut disk = auto.open();
    match disk.facts().durable_writes {
        DurableChoice::Probed { chosen, dsync_us, fsync_us } => {
            assert_eq!(chosen == DurableWrites::Fsync, fsync_us < dsync_us - dsync_us / 8);
            assert!(disk.describe().contains("us with fdatasync"), "{}", disk.describe());
        }
        DurableChoice::Unprobed => assert!(!disk.facts().durable),
        set => panic!("{set:?}"),
    }
    assert_eq!(names(&mut disk), [], "the scratch file is gone");
    let in_memory = memory_ring();
    let disk = in_memory.open();
    if !disk.facts().durable {
        assert_eq!(disk.facts().durable_writes, DurableChoice::Unprobed);
    }
}

#[test]
fn a_linked_sync_of_a_write_that_failed_reports_the_write() {
    let factory = linked_ring();
    let mut disk = factory.open();
    let (file, _) = open(&mut disk, "a", OpenMode::CreateNew);
    write(&mut disk, file, 0, 1, 4096, true);
    let (reader, _) = open(&mut disk, "a", OpenMode::ReadOnly);
    // A write that fails between two that do not: each has its own sync.
    let mut completions = Vec::new();
    for (token, file) in [(0, file), (1, reader), (2, file)] {
        let mut buffer = disk.buffer(4096);
        buffer.as_mut_slice()[..4096].fill(9);
        let op = Op::Write { file, offset: token * 4096, buffer, len: 4096, durable: true };
        disk.submit(Token(token), op);
    }
    while completions.len() < 3 {
        disk.wait(&mut completions);
    }
    completions.sort_by_key(|c| c.token);
    let ends: Vec<_> = completions.iter().map(|c| c.result.as_ref().map_err(|e| (e.op, e.errno))).collect();
    assert!(matches!(ends[0], Ok(Done::Transferred(4096))) && matches!(ends[2], Ok(Done::Transferred(4096))));
    assert!(matches!(ends[1], Err(("write", libc::EBADF))), "{ends:?}");
    assert_eq!(disk.in_flight(), 0);
    assert_eq!(read(&mut disk, file, 0, 16384).chunks(4096).map(|c| c[0]).collect::<Vec<_>>(), [9, 0, 9]);
}

#[test]
fn a_missing_directory_is_named() {
    let missing = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-such-directory");
    match RingDisk::open(&missing, RingOptions::default()) {
        Err(error) => assert!(error.to_string().contains("no-such-directory"), "{error}"),
        Ok(_) => panic!("opened"),
    }
}
