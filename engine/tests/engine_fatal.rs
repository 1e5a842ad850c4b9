//! A write of the log fails: the node stops acknowledging, says so once, and restart is recovery. A test of its own, because the
//! failure is made with a limit on the whole process.

#![allow(clippy::unwrap_used)]

mod engine_common;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use engine_common::{Cluster, eventually, set};
use futures_lite::future::block_on;
use logdrive::api::Error;
use logdrive::core::Fatal;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_failed_write_ends_the_node_and_restart_is_recovery() {
    // SAFETY: the signal is ignored from here on; there is no handler. Without it, the limit below would end the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut cluster = Cluster::new(1, 1, 1);
    let (sender, told) = channel();
    cluster.settings(1).hooks.on_fatal = Arc::new(move |fatal| sender.send(fatal.clone()).unwrap());
    cluster.start_node(1);
    cluster.set(1, "a", "1");
    let group = cluster.group(1, 1);

    let before = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
    let lost = block_on(group.propose(set("a", "2")));
    assert!(matches!(lost, Err(Error::Indeterminate)), "{lost:?}");
    let fatal = told.recv_timeout(Duration::from_secs(60)).unwrap();
    let Fatal::LogPoisoned { core: 0, error } = &fatal else { panic!("an unexpected reason: {fatal}") };
    assert_eq!(error.errno, libc::EFBIG);
    eventually("nothing more is taken", || {
        (block_on(group.propose(set("a", "3"))) == Err(Error::Stopped)).then_some(())
    });
    assert!(told.try_recv().is_err(), "said once");
    let engine = cluster.engines[0].take().unwrap();
    assert_eq!(engine.failure(), Some(fatal.clone()));
    assert_eq!(engine.shutdown(), Err(fatal));

    setrlimit(Resource::Fsize, before).unwrap();
    cluster.start_node(1);
    let value = cluster.get(1, "a").unwrap();
    // What was not acknowledged may be there or not; what was acknowledged is.
    assert!(value == "1" || value == "2", "{value}");
}
