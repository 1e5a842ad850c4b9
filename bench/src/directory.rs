//! Where a benchmark keeps its data.
//!
//! A directory given by the user is emptied only if an earlier benchmark made it (a marker file says so), and kept at the
//! end. Without one a temporary directory is made on a real disk and removed at the end, also on Ctrl-C and after a panic; what
//! a killed benchmark left behind is removed by the next one.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::environment;

/// Marks a directory as one that benchmarks may empty. Locked while one works in it.
const MARKER: &str = ".logdrive-bench";
/// Temporary directories are called so, followed by the process id.
const TEMPORARY_PREFIX: &str = "logdrive-bench.tmp.";
/// What may lie in a directory that counts as empty: file systems put it into their root.
const NOT_COUNTED: &str = "lost+found";
/// Files may appear while a directory is being removed, when nodes in it still run.
const REMOVE_TRIES: u32 = 100;

/// The temporary directory of this process, for the way out on a signal or a panic.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A directory for a benchmark's data; removed when dropped if it is temporary.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    temporary: bool,
    _marker: File,
}

impl DataDir {
    /// The directory the user named, or a temporary one.
    pub(crate) fn prepare(given: Option<&Path>) -> Result<DataDir> {
        match given {
            Some(path) => DataDir::given(path),
            None => DataDir::temporary(&temporary_parents()),
        }
    }

    fn given(path: &Path) -> Result<DataDir> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot create the directory {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot resolve the directory {}", path.display()))?;
        let names = list(&path)?;
        let ours = names.iter().any(|n| n == MARKER);
        if !ours && names.iter().any(|n| n != NOT_COUNTED) {
            bail!(
                "{} is not empty and was not made by a benchmark (it has no file {MARKER}): name an empty or a new \
                 directory with --dir",
                path.display()
            );
        }
        // The lock first: another benchmark may be at work in it.
        let marker = mark(&path)?;
        for name in names.iter().filter(|n| *n != MARKER && *n != NOT_COUNTED) {
            remove(&path.join(name))?;
        }
        Ok(DataDir { path, temporary: false, _marker: marker })
    }

    fn temporary(parents: &[PathBuf]) -> Result<DataDir> {
        let mut reasons = Vec::new();
        for parent in parents {
            match environment::is_memory(parent) {
                Ok(false) => {}
                Ok(true) => {
                    reasons.push(format!("{} lies in memory", parent.display()));
                    continue;
                }
                Err(error) => {
                    reasons.push(format!("{}: {error}", parent.display()));
                    continue;
                }
            }
            remove_left_behind(parent);
            let path = parent.join(format!("{TEMPORARY_PREFIX}{}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    *lock_temporary() = Some(path.clone());
                    let marker = mark(&path)?;
                    return Ok(DataDir { path, temporary: true, _marker: marker });
                }
                Err(error) => reasons.push(format!("{}: {error}", parent.display())),
            }
        }
        bail!(
            "found no place on a real disk for temporary data ({}): name a directory with --dir",
            reasons.join("; ")
        )
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.temporary {
            remove_temporary();
        }
    }
}

/// Removes this process's temporary directory, if there is one. For all ways out.
pub(crate) fn remove_temporary() {
    let Some(path) = lock_temporary().take() else { return };
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir_all(&path) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => std::thread::yield_now(),
        }
    }
    eprintln!("could not remove the temporary directory {}: remove it by hand", path.display());
}

fn lock_temporary() -> std::sync::MutexGuard<'static, Option<PathBuf>> {
    // A path is whole whatever its holder was doing when it panicked.
    TEMPORARY.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Near the build's output if this binary lies there, then the current directory, then where large temporary files belong.
fn temporary_parents() -> Vec<PathBuf> {
    let mut parents = Vec::new();
    if let Ok(binary) = std::env::current_exe() {
        parents.extend(binary.ancestors().find(|p| p.join("CACHEDIR.TAG").is_file()).map(Path::to_owned));
    }
    parents.extend(std::env::current_dir());
    parents.push(PathBuf::from("/var/tmp"));
    parents
}

fn list(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let context = || format!("cannot list the directory {}", path.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(path).with_context(context)? {
        names.push(entry.with_context(context)?.file_name());
    }
    Ok(names)
}

/// Makes and locks the marker.
fn mark(directory: &Path) -> Result<File> {
    let path = directory.join(MARKER);
    let mut marker = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    if flock(&marker, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "another benchmark is at work in {}: wait for it, or name another directory",
            directory.display()
        );
    }
    writeln!(
        marker,
        "The data of logdrive-bench: the next benchmark that is given this directory empties it."
    )
    .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(marker)
}

fn remove(path: &Path) -> Result<()> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let result = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.with_context(|| format!("cannot remove {}", path.display()))
}

/// Removes temporary directories of benchmarks that were killed: theirs is the marker that nobody holds a lock on.
fn remove_left_behind(parent: &Path) {
    for name in list(parent).unwrap_or_default() {
        if !name.to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let path = parent.join(&name);
        let Ok(marker) = File::open(path.join(MARKER)) else { continue };
        if flock(&marker, FlockOperation::NonBlockingLockExclusive).is_ok() && remove(&path).is_ok() {
            eprintln!("removed {}, left behind by a benchmark that was killed", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_taken_and_kept() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/deep");
        let directory = DataDir::prepare(Some(&path)).unwrap();
        assert!(!directory.temporary);
        drop(directory);
        assert!(path.join(MARKER).is_file());
    }

    #[test]
    fn a_directory_of_ours_is_emptied() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let directory = DataDir::prepare(Some(&path)).unwrap();
        fs::create_dir(path.join("node-1")).unwrap();
        fs::write(path.join("node-1/log"), "old").unwrap();
        fs::write(path.join("file"), "old").unwrap();
        drop(directory);
        let again = DataDir::prepare(Some(&path)).unwrap();
        let names = list(again.path()).unwrap();
        assert_eq!(names, [MARKER]);
    }

    #[test]
    fn a_foreign_directory_is_refused_and_untouched() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.txt"), "years of work").unwrap();
        let error = DataDir::prepare(Some(parent.path())).unwrap_err().to_string();
        assert!(error.contains("not empty") && error.contains("--dir"), "{error}");
        assert_eq!(fs::read_to_string(parent.path().join("thesis.txt")).unwrap(), "years of work");
        assert!(!parent.path().join(MARKER).exists());
    }

    #[test]
    fn a_link_in_a_directory_of_ours_is_removed_and_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        let path = parent.path().join("data");
        drop(DataDir::prepare(Some(&path)).unwrap());
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        let _again = DataDir::prepare(Some(&path)).unwrap();
        assert!(!path.join("link").exists());
        assert!(outside.join("kept").is_file());
    }

    #[test]
    fn two_benchmarks_do_not_share_a_directory() {
        let parent = tempfile::tempdir().unwrap();
        let _first = DataDir::prepare(Some(parent.path())).unwrap();
        fs::write(parent.path().join("log"), "live").unwrap();
        let error = DataDir::prepare(Some(parent.path())).unwrap_err().to_string();
        assert!(error.contains("another benchmark"), "{error}");
        assert!(parent.path().join("log").exists());
    }

    #[test]
    fn a_file_in_place_of_a_directory_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "").unwrap();
        assert!(DataDir::prepare(Some(&path)).is_err());
    }

    #[test]
    fn temporary_directories_come_and_go_and_the_left_behind_are_removed() {
        // Beside the test binary, in the build's output: /tmp may lie in memory.
        let binary = std::env::current_exe().unwrap();
        let parent = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let left = parent.path().join(format!("{TEMPORARY_PREFIX}1"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(MARKER), "").unwrap();
        fs::write(left.join("log"), "").unwrap();
        let foreign = parent.path().join(format!("{TEMPORARY_PREFIX}2"));
        fs::create_dir(&foreign).unwrap();

        let memory = PathBuf::from("/dev/shm");
        let directory = DataDir::temporary(&[memory, parent.path().to_owned()]).unwrap();
        let path = directory.path().to_owned();
        assert!(directory.temporary);
        assert!(path.starts_with(parent.path()));
        assert!(!left.exists());
        assert!(foreign.exists(), "a directory without a marker is not ours");
        fs::write(path.join("log"), "").unwrap();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn without_a_real_disk_there_is_a_clear_message() {
        let error = DataDir::temporary(&[PathBuf::from("/nowhere")]).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("--dir"), "{error}");
    }
}
