//! Writes the commit that is built into the binaries of `tools` and `bench`, so that a failed run of the simulator can be repeated and a
//! figure traced to its source.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// `LOGDRIVE_COMMIT` from the environment (for builds without the repository), else what git says, else "unknown".
fn commit() -> String {
    if let Ok(given) = std::env::var("LOGDRIVE_COMMIT")
        && !given.is_empty()
    {
        return given;
    }
    let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    if dirty { format!("{revision}-dirty") } else { revision }
}

fn main() {
    println!("cargo::rerun-if-env-changed=LOGDRIVE_COMMIT");
    for source in ["src", "../tools/build.rs", "../engine/src", "../shard/src", "../wal/src", "../Cargo.lock"]
    {
        println!("cargo::rerun-if-changed={source}");
    }
    for name in ["HEAD", "logs/HEAD"] {
        // A path that does not exist would make cargo run this script at every build.
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rustc-env=LOGDRIVE_BUILT_COMMIT={}", commit());
}
