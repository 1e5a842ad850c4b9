//! Ctrl-C: removes the temporary data and ends the process.

use std::mem::MaybeUninit;

use anyhow::{Context, Result};

use crate::directory;

/// Signals that ask a program to end.
const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Blocks the signals on this thread and on all it starts later (so that no executor is interrupted in a system call), and
/// waits for them on a thread of their own. To be called first.
pub(crate) fn install() -> Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given, sigaddset changes it, and pthread_sigmask reads it; the old
    // mask is not asked for.
    let (set, result) = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        let set = set.assume_init();
        (set, libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))
    };
    if result != 0 {
        return Err(std::io::Error::from_raw_os_error(result)).context("cannot block signals");
    }
    let wait = move || {
        let mut signal: libc::c_int = 0;
        // SAFETY: both point to live values of the right type.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        directory::remove_temporary();
        std::process::exit(128 + signal);
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .context("cannot start the thread that waits for signals")?;

    // Release builds abort on a panic: nothing is dropped then.
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        earlier(panic);
        directory::remove_temporary();
    }));
    Ok(())
}
