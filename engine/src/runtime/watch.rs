//! Sees to it that the executors turn.
//!
//! glommio's executor parks although tasks are ready if its preemption timer runs out between its look at the rings and the first of its
//! task queues, as it does when the machine puts the thread aside there. What wakes it then is the next event: I/O, another thread, the
//! timer that each core has armed. But if that timer has just gone off, its task is among those that are ready, none is armed, and
//! whoever else would wake the core believes that it is awake already. A node that nobody sends anything stood still for ever.
//! Only another thread can help.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock;
use super::shared::{Node, count};

/// Looks at the cores once in so many wake intervals.
const INTERVALS_PER_LOOK: u32 = 4;
/// A core that was to be awake before so many wake intervals is roused: late it is often, when the machine is busy, and rousing one that
/// is awake costs it a look at its channels.
const INTERVALS_LATE: u32 = 2;

/// The thread; it ends when this is dropped.
pub(crate) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(node: Arc<Node>) -> io::Result<Watch> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name(format!("logdrive-{}-watch", node.settings.node));
        let thread = thread.spawn(move || {
            let interval = node.settings.runtime.wake_interval;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval * INTERVALS_PER_LOOK) {
                rouse(&node, interval * INTERVALS_LATE);
            }
        })?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

fn rouse(node: &Node, late: Duration) {
    let now = clock::now();
    for inbox in &node.inboxes {
        if inbox.rouse_if_due(now, late) {
            count(&node.counters.executors_roused);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
