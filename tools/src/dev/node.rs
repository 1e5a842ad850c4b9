//! One node of a local cluster: a child process and what it prints.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Event;
use super::layout::NodePlace;
use crate::failure::Failure;
use crate::os;
use crate::output::note;

/// A longer line of a node is cut: it is for eyes.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// A running (or ended) node process.
#[derive(Debug)]
pub(super) struct NodeProcess {
    pub(super) place: NodePlace,
    child: Child,
    /// How it ended, once that was seen.
    pub(super) ended: Option<ExitStatus>,
}

impl NodeProcess {
    /// Starts a node. Call from the main thread only: the child ends with the thread that starts it.
    pub(super) fn start(
        place: &NodePlace,
        bootstrap: bool,
        events: &Sender<Event>,
    ) -> Result<NodeProcess, Failure> {
        let failed = |error| Failure::io(format_args!("starting node {}", place.id), &error);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("serve").arg("--config").arg(&place.config);
        if bootstrap {
            command.arg("--bootstrap");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that Ctrl-C in the terminal reaches only the parent, which stops the nodes in order.
        command.process_group(0);
        os::end_with_parent(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
            child.stderr.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
        ];
        for output in outputs.into_iter().flatten() {
            forward(place.id, output, events.clone()).map_err(failed)?;
        }
        Ok(NodeProcess { place: place.clone(), child, ended: None })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Looks whether it has ended since the last look.
    pub(super) fn has_just_ended(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        // An error means that there is no such child; that is an end as well, but cannot happen to a child of ours.
        self.ended = self.child.try_wait().ok().flatten();
        self.ended.is_some()
    }

    /// Asks it to stop. Its id cannot be another process's: it is not reaped before it is seen here to have ended.
    pub(super) fn signal(&self, signal: Signal) {
        if self.ended.is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // Fails if it ended meanwhile, which is what is wanted.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for NodeProcess {
    /// Whatever way the parent leaves, no node is left behind.
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Asks all nodes to stop and waits for them, `patience` at most; then they are killed. Returns whether all ended well.
pub(super) fn stop_all(nodes: &mut [NodeProcess], patience: Duration) -> bool {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let running = |nodes: &mut [NodeProcess]| {
        nodes
            .iter_mut()
            .filter_map(|node| (!node.has_just_ended() && node.ended.is_none()).then_some(node.place.id))
            .count()
    };
    let stopping: Vec<usize> = (0..nodes.len()).filter(|&at| nodes[at].ended.is_none()).collect();
    for &at in &stopping {
        nodes[at].signal(Signal::TERM);
    }
    let mut waited = Duration::ZERO;
    while running(nodes) > 0 && waited < patience {
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
    for node in nodes.iter_mut().filter(|node| node.ended.is_none()) {
        note(format_args!(
            "node {} did not stop within {} s and is killed",
            node.place.id,
            patience.as_secs()
        ));
        let _ = node.child.kill();
        node.ended = node.child.wait().ok();
    }
    stopping.iter().all(|&at| nodes[at].ended.is_some_and(|status| status.success()))
}

/// Hands a node's lines on, one event each.
fn forward(node: u32, output: Box<dyn Read + Send>, events: Sender<Event>) -> std::io::Result<()> {
    let copy = move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if events.send(Event::Line { node, text }).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name(format!("node-{node}-output")).spawn(copy)?;
    Ok(())
}
