//! The few things asked of the operating system that need care: signals, and children that must not outlive their parent.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::note;

/// The signals that ask a process to stop.
const STOP_SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

/// Handles the stop signals on a thread of their own: the first arrives through the returned channel, a second one
/// ends the process at once (the user insists).
pub(crate) fn stop_signals() -> io::Result<Receiver<&'static str>> {
    let mut signals = Signals::new(STOP_SIGNALS)?;
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut seen = false;
        for signal in signals.forever() {
            if seen {
                note(format_args!("{}: again, ending at once", name_of(signal)));
                std::process::exit(128 + signal);
            }
            seen = true;
            // Fails when nobody listens any more: the process ends anyway.
            let _ = sender.send(name_of(signal));
        }
    })?;
    Ok(receiver)
}

fn name_of(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        _ => "SIGHUP",
    }
}

/// The clock of the supervisor.
#[allow(
    clippy::disallowed_methods,
    reason = "a command line tool waits for people and processes, in real time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Blocks the stop signals on this thread and on all it starts from now on. The threads of an engine must not be
/// interrupted in their system calls; the thread of [`stop_signals`] takes the signals, so call that first.
pub(crate) fn block_stop_signals() -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set, the other calls get pointers to it while it lives; the numbers are
    // valid signals, and a null old set is allowed (pthread_sigmask(3)).
    let error = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in STOP_SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Makes the child get SIGTERM when the thread that starts it ends, however that comes about. Start children from a
/// thread that lives as long as the process.
pub(crate) fn end_with_parent(command: &mut Command) {
    let parent = getpid();
    let prepare = move || prepare_child(parent);
    // SAFETY: between fork and exec the closure makes two system calls and neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
}

fn prepare_child(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have ended before the line above; then nobody would send the signal.
    if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}
