//! Lists of faults as files: one fault per line, as JSON, to be read, edited and run again with `--faults`.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::{Nanos, SECOND};
use super::faults::{Fault, FaultKind};
use super::mix::FAULTS_MAX;

/// Bytes of a file of faults, at most.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The latest time, and the longest span, that a fault may have.
const TIME_MAX: Nanos = 1_000_000 * SECOND;
/// Clocks that go wrong by more than this are no clocks.
const DRIFT_PPM_MAX: i32 = 500_000;

/// Faults from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultList {
    /// The file, as it was named.
    pub path: PathBuf,
    /// The faults.
    pub faults: Arc<[Fault]>,
}

/// Not a list of faults.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadFaultList {
    /// The file cannot be read or written.
    #[error("the list of faults {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is too long.
    #[error("the list of faults {} has more than {FILE_BYTES_MAX} bytes or {FAULTS_MAX} faults", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// A line that is no fault.
    #[error("line {line} of the list of faults {}: {what}. Lines are written as `logdrive sim --seed S --write-faults FILE` writes them", path.display())]
    Line {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl FaultList {
    /// Reads a file. Empty lines, and those that begin with `#`, say nothing.
    pub fn read(path: &Path) -> Result<FaultList, BadFaultList> {
        let file_error = |error| BadFaultList::File { path: path.to_owned(), error };
        let file = std::fs::File::open(path).map_err(file_error)?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(file_error)?;
        let too_long = || BadFaultList::TooLong { path: path.to_owned() };
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(too_long());
        }
        let mut faults = Vec::new();
        let mut known = BTreeSet::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |what: String| BadFaultList::Line { path: path.to_owned(), line: number + 1, what };
            let fault: Fault = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
            check(&fault).map_err(bad)?;
            if !known.insert(fault.id) {
                return Err(bad(format!("number {} is there twice", fault.id.0)));
            }
            if faults.len() == FAULTS_MAX {
                return Err(too_long());
            }
            faults.push(fault);
        }
        Ok(FaultList { path: path.to_owned(), faults: faults.into() })
    }

    /// Writes a file, with `about` above the faults as a comment.
    pub fn write(path: &Path, about: &str, faults: &[Fault]) -> Result<(), BadFaultList> {
        let file_error = |error| BadFaultList::File { path: path.to_owned(), error };
        let mut text: String = about.lines().map(|line| format!("# {line}\n")).collect();
        for fault in faults {
            let line = serde_json::to_string(fault).map_err(|error| file_error(error.into()))?;
            text.push_str(&line);
            text.push('\n');
        }
        std::fs::write(path, text).map_err(file_error)
    }
}

/// Numbers with which the world could not reckon.
fn check(fault: &Fault) -> Result<(), String> {
    let longest = match &fault.what {
        FaultKind::CrashSlowLeader { slow, .. } => *slow,
        FaultKind::SlowCore { turn, .. } => *turn,
        FaultKind::Link { trouble, .. } => trouble.delay,
        FaultKind::ClockStep { ahead, .. } => *ahead,
        FaultKind::DiskSlow { up_to, .. } => *up_to,
        FaultKind::ClockDrift { ppm, .. } if ppm.unsigned_abs() > DRIFT_PPM_MAX.unsigned_abs() => {
            return Err(format!("a clock drifts by at most {DRIFT_PPM_MAX} ppm, not by {ppm}"));
        }
        FaultKind::Disk { fault, .. } | FaultKind::SnapshotDisk { fault, .. } => match fault.what {
            logdrive_wal::FaultKind::Delay(nanos) => nanos,
            _ => 0,
        },
        _ => 0,
    };
    match [fault.at, fault.span, longest].into_iter().max() {
        Some(time) if time > TIME_MAX => Err(format!("{time} ns are more than {TIME_MAX}")),
        _ => Ok(()),
    }
}

/// How a fault of the log's simulated disk is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "logdrive_wal::Fault", deny_unknown_fields)]
pub(super) struct DiskFaultText {
    #[serde(with = "OpKindText")]
    on: logdrive_wal::OpKind,
    #[serde(default)]
    name_contains: String,
    #[serde(default)]
    durable: Option<bool>,
    #[serde(default)]
    skip: u32,
    times: u32,
    #[serde(with = "DiskFaultKindText")]
    what: logdrive_wal::FaultKind,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "logdrive_wal::OpKind")]
enum OpKindText {
    Open,
    Close,
    Write,
    Read,
    Sync,
    Rename,
    Unlink,
    SyncDir,
    List,
    Turn,
    Latency,
    Orphan,
    CachedBlock,
    CachedLength,
    CachedNames,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "logdrive_wal::FaultKind")]
pub(super) enum DiskFaultKindText {
    Errno(i32),
    Forgets(i32),
    Short(u32),
    Delay(u64),
    Stall(u32),
    Lost,
    Torn { sectors: u64, errno: i32 },
    Flip { at: u32, mask: u8 },
    Garbage { sector: u32, seed: u32 },
    Misdirected { block: u32 },
    Stale,
    Overtakes(u32),
    Lands(u32),
    Keeps { sectors: u8 },
    KeepsLength,
    KeepsNames(u32),
}

#[cfg(test)]
mod tests {
    use super::super::mix;
    use super::super::plan::{Plan, Profile};
    use super::super::shape::Shape;
    use super::*;

    #[test]
    fn lists_of_all_profiles_are_read_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("faults");
        for profile in Profile::ALL {
            let plan = Plan { ticks: 60_000, ..Plan::new(profile, 3) };
            let faults = mix::faults(&plan, &Shape::of(&plan));
            assert!(!faults.is_empty());
            FaultList::write(&path, "two\nlines", &faults).unwrap();
            assert_eq!(*FaultList::read(&path).unwrap().faults, *faults);
        }
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("faults");
        let good = r#"{"id":1,"at":5,"span":0,"what":"Blackout"}"#;
        for (text, said) in [
            (format!("# so\n{good}\n{good}\n"), "line 3 of"),
            (format!("{good}\n\nBlackout\n"), "line 3 of"),
            (good.replace("\"at\":5", "\"at\":1000000000000000001"), "line 1 of"),
            (good.replace("span", "spam"), "unknown field"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = FaultList::read(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        std::fs::write(&path, format!("# so\n\n{good}\n")).unwrap();
        assert_eq!(FaultList::read(&path).unwrap().faults.len(), 1);
        assert!(FaultList::read(&directory.path().join("none")).is_err());
    }
}
