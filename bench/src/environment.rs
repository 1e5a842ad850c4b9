//! Where a figure was measured: machine, disk, build. A figure without it means nothing.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// File systems that keep nothing over a power loss (statfs(2)).
const MEMORY_FILE_SYSTEMS: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58F6, "ramfs")];
/// `CAP_IPC_LOCK` (capabilities(7)): the limit on locked memory does not apply.
const CAP_IPC_LOCK: u32 = 14;

/// What a reader must know of the machine and the build.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) kernel: String,
    /// CPUs this process may run on.
    pub(crate) cores: usize,
    pub(crate) cpu_model: String,
    /// The CPU says that it is virtual.
    pub(crate) virtual_machine: bool,
    /// Frequency governor, where the kernel has one.
    pub(crate) governor: Option<String>,
    pub(crate) memory_bytes: u64,
    /// RLIMIT_MEMLOCK; absent: no limit applies to this process.
    pub(crate) memlock_bytes: Option<u64>,
    /// Load of the machine over the minute before the start.
    pub(crate) load_average_before: f64,
    pub(crate) directory: String,
    /// Block device under the directory.
    pub(crate) disk: String,
    pub(crate) disk_model: Option<String>,
    pub(crate) disk_rotational: Option<bool>,
    /// The device's cache: `write back` can lose what was not flushed.
    pub(crate) disk_write_cache: Option<String>,
    pub(crate) file_system: String,
    pub(crate) mount_options: String,
    /// Reads and writes go past the page cache.
    pub(crate) o_direct: bool,
    /// An acknowledged write survives a power loss, as far as the device tells the truth.
    pub(crate) durable: bool,
    /// How the log describes its disk.
    pub(crate) log_disk: String,
    /// Revision of the source.
    pub(crate) commit: String,
    pub(crate) version: &'static str,
    /// `release` or `debug`.
    pub(crate) build: &'static str,
    pub(crate) command_line: Vec<String>,
    /// Start, seconds since the Unix epoch.
    pub(crate) started_unix_seconds: u64,
}

/// What the log itself found out about its disk.
#[derive(Clone, Debug)]
pub(crate) struct LogDisk {
    pub(crate) o_direct: bool,
    pub(crate) durable: bool,
    pub(crate) description: String,
}

impl Environment {
    /// Collects what can be found out; what cannot is `unknown`, never a reason to fail.
    pub(crate) fn collect(directory: &Path, log_disk: &LogDisk) -> Environment {
        let mount = mount_of(directory);
        let device = device_of(directory);
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Environment {
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            cores: cores(),
            cpu_model: cpu_field(&cpu, "model name").unwrap_or_else(unknown),
            virtual_machine: cpu_field(&cpu, "flags")
                .is_some_and(|f| f.split_ascii_whitespace().any(|f| f == "hypervisor")),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: memory_bytes(),
            memlock_bytes: memlock_bytes(),
            load_average_before: load_average(),
            directory: directory.display().to_string(),
            disk: device.as_ref().map_or_else(unknown, |d| d.name.clone()),
            disk_model: device.as_ref().and_then(|d| d.model.clone()),
            disk_rotational: device.as_ref().and_then(|d| d.rotational),
            disk_write_cache: device.as_ref().and_then(|d| d.write_cache.clone()),
            file_system: mount.as_ref().map_or_else(unknown, |m| m.file_system.clone()),
            mount_options: mount.as_ref().map_or_else(unknown, |m| m.options.clone()),
            o_direct: log_disk.o_direct,
            durable: log_disk.durable,
            log_disk: log_disk.description.clone(),
            commit: env!("LOGDRIVE_BUILT_COMMIT").to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            command_line: std::env::args().collect(),
            started_unix_seconds: crate::clock::unix_seconds(),
        }
    }

    /// What makes the figures worth less, and what to do about it.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if is_memory_name(&self.file_system) {
            warnings.push(format!(
                "{} is on {}, which is memory: no write is durable, the figures say nothing about a disk; name a \
                 directory on a disk with --dir",
                self.directory, self.file_system
            ));
        } else if !self.durable {
            warnings.push(format!(
                "the log in {} is not durable ({}): an acknowledged write may be lost with the power",
                self.directory, self.log_disk
            ));
        }
        if !self.o_direct {
            warnings.push(format!(
                "{} has no direct I/O here ({}): writes go through the page cache",
                self.file_system, self.directory
            ));
        }
        if self.build == "debug" {
            warnings.push("this is a debug build: the figures mean nothing; build with --release".to_owned());
        }
        if let Some(governor) = &self.governor
            && governor != "performance"
        {
            warnings.push(format!(
                "the frequency governor is `{governor}`: figures vary with the clock; set it to `performance`"
            ));
        }
        warnings
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// A file of one line.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// CPUs this process may run on (its affinity and its control group count).
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn cpu_field(cpuinfo: &str, name: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|l| l.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |l: &str| l.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    text.lines().find(|l| l.starts_with("MemTotal:")).and_then(kilobytes).map_or(0, |k| k * 1024)
}

/// Most memory this process had at once.
pub(crate) fn memory_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |l: &str| l.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    status.lines().find(|l| l.starts_with("VmHWM:")).and_then(kilobytes).map_or(0, |k| k * 1024)
}

/// Memory of this process now.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |l: &str| l.split_ascii_whitespace().nth(1)?.parse::<u64>().ok();
    status.lines().find(|l| l.starts_with("VmRSS:")).and_then(kilobytes).map_or(0, |k| k * 1024)
}

/// Files and sockets that this process has open.
pub(crate) fn file_descriptors() -> usize {
    // The listing itself is one of them.
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// What a directory takes on disk. Files that go away meanwhile are left out.
pub(crate) fn disk_use_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_use_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(bytes).sum()
}

/// RLIMIT_MEMLOCK, or nothing if no limit applies: unlimited, or this process may lock what it likes.
pub(crate) fn memlock_bytes() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    (!has_capability(&status, CAP_IPC_LOCK)).then_some(limit)
}

fn has_capability(status: &str, capability: u32) -> bool {
    status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & (1 << capability) != 0)
}

fn load_average() -> f64 {
    read("/proc/loadavg").and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

fn is_memory_name(file_system: &str) -> bool {
    MEMORY_FILE_SYSTEMS.iter().any(|(_, name)| *name == file_system)
}

/// Whether a directory lies on a file system that is memory.
pub(crate) fn is_memory(directory: &Path) -> Result<bool> {
    let kind = rustix::fs::statfs(directory)?.f_type as u64;
    Ok(MEMORY_FILE_SYSTEMS.iter().any(|(magic, _)| *magic == kind))
}

/// Bytes an unprivileged user may still write below a directory.
pub(crate) fn free_bytes(directory: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(directory)
        .with_context(|| format!("cannot ask for the free space of {}", directory.display()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

struct Mount {
    point: String,
    file_system: String,
    options: String,
}

fn mount_of(directory: &Path) -> Option<Mount> {
    let directory = directory.canonicalize().ok()?;
    parse_mounts(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &directory)
}

/// The mount a path lies in: the longest mount point above it, and of equal ones the last, which hides the others
/// (proc_pid_mountinfo(5)).
fn parse_mounts(mountinfo: &str, directory: &Path) -> Option<Mount> {
    let mut found: Option<Mount> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(point), Some(options), Some(kind)) = (left.get(4), left.get(5), right.first()) else {
            continue;
        };
        let point = unescape(point);
        if directory.starts_with(&point) && found.as_ref().is_none_or(|f| point.len() >= f.point.len()) {
            let super_options = right.get(2).copied().unwrap_or_default();
            let options = format!("{options},{super_options}").trim_end_matches(',').to_owned();
            found = Some(Mount { point, file_system: (*kind).to_owned(), options });
        }
    }
    found
}

/// Spaces, tabs, newlines and backslashes are written as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

struct Device {
    name: String,
    model: Option<String>,
    rotational: Option<bool>,
    write_cache: Option<String>,
}

/// The block device under a directory, as sysfs knows it. Overlays and network file systems have none.
fn device_of(directory: &Path) -> Option<Device> {
    use std::os::unix::fs::MetadataExt;
    let number = std::fs::metadata(directory).ok()?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let path = Path::new("/sys/dev/block").join(format!("{major}:{minor}")).canonicalize().ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    // A partition's settings are those of the disk it lies on, one directory up.
    let disk = if path.join("queue").is_dir() { path.clone() } else { path.parent()?.to_owned() };
    Some(Device {
        name,
        model: read(disk.join("device/model")),
        rotational: read(disk.join("queue/rotational")).map(|r| r == "1"),
        write_cache: read(disk.join("queue/write_cache")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /data\\040disk rw,noatime shared:5 - xfs /dev/vdb1 rw,attr2
31 27 0:41 / /tmp rw - ext4 /dev/vdc rw
32 27 0:42 / /tmp rw - tmpfs tmpfs rw
garbage
";

    #[test]
    fn the_mount_of_a_path_is_the_longest_and_the_last() {
        let of = |path: &str| parse_mounts(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(of("/home/me").file_system, "ext4");
        assert_eq!(of("/home/me").options, "rw,relatime,rw,discard");
        assert_eq!(of("/data disk/x").file_system, "xfs");
        assert_eq!(of("/tmp/x").file_system, "tmpfs");
        assert_eq!(of("/tmpfoo").file_system, "ext4");
    }

    #[test]
    fn reads_cpuinfo_and_capabilities() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu hypervisor sse\n";
        assert_eq!(cpu_field(cpuinfo, "model name").as_deref(), Some("Some CPU @ 2 GHz"));
        assert!(cpu_field(cpuinfo, "flags").unwrap().contains("hypervisor"));
        assert_eq!(cpu_field(cpuinfo, "bogomips"), None);
        assert!(has_capability("Name:\tx\nCapEff:\t0000000000004000\n", CAP_IPC_LOCK));
        assert!(!has_capability("CapEff:\t00000000a80425fb\n", CAP_IPC_LOCK));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }

    fn environment(o_direct: bool, durable: bool) -> Environment {
        let log_disk = LogDisk { o_direct, durable, description: "a disk".to_owned() };
        Environment::collect(Path::new("."), &log_disk)
    }

    #[test]
    fn this_machine_has_an_environment() {
        let found = environment(true, true);
        assert!(found.cores > 0);
        assert!(found.memory_bytes > 0);
        assert_ne!(found.kernel, "unknown");
        assert_ne!(found.file_system, "unknown");
        assert!(!found.command_line.is_empty());
        assert!(free_bytes(Path::new(".")).unwrap() > 0);
        assert!(resident_bytes() > 0 && resident_bytes() <= memory_peak_bytes());
        assert!(file_descriptors() >= 3);
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::fs::write(directory.path().join("below/file"), [1; 10_000]).unwrap();
        assert!((8_192..1 << 20).contains(&disk_use_bytes(directory.path())));
    }

    #[test]
    fn a_log_that_is_not_durable_is_said_aloud() {
        let mut found = environment(false, false);
        found.file_system = "ext4".to_owned();
        let all = found.warnings().join("\n");
        assert!(all.contains("not durable") && all.contains("no direct I/O"), "{all}");
        found.file_system = "tmpfs".to_owned();
        let all = found.warnings().join("\n");
        assert!(all.contains("is memory") && all.contains("--dir"), "{all}");
    }
}
