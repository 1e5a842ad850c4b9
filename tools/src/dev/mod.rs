//! `logdrive dev`: a cluster of real processes on this machine, to try things and to test against.

mod layout;
mod node;
mod watch;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use logdrive::api::TimingPreset;

use crate::client::NodeReport;
use crate::config::GROUPS_MAX;
use crate::failure::{Exit, Failure};
use crate::os;
use crate::output::{note, say};
use layout::Layout;
use node::NodeProcess;
use watch::{Spread, Watch};

/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A node that is asked to stop gets so long: handing over, draining and closing its log are bounded by less.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// While the cluster starts, what is missing is said so often.
const WAITING_EVERY: Duration = Duration::from_secs(5);
/// With `--restart`, a node is started again after this pause.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    nodes: u32,
    /// Raft groups, each replicated on all nodes.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=GROUPS_MAX))]
    groups: u64,
    /// Keep the cluster's data here, and use it again the next time.
    ///
    /// Without it the data is in a new directory on a disk ($TMPDIR, /var/tmp or the current directory, whichever is the
    /// first that is not in memory), which is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Clients are served on this port and the ones after it, one per node; 0 takes free ones.
    #[arg(long, default_value_t = 7001)]
    port: u16,
    /// Cores (executors, each with a log of its own) of every node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    cores: u16,
    /// Raft timing: default, lan, cross-zone or wan.
    #[arg(long, default_value = "default", value_parser = timing_preset)]
    timing: TimingPreset,
    /// Start a node again when it dies, instead of only saying so.
    #[arg(long)]
    restart: bool,
}

fn timing_preset(name: &str) -> Result<TimingPreset, String> {
    serde_json::from_value(name.into()).map_err(|_| "it is one of default, lan, cross-zone, wan".to_owned())
}

/// What the supervisor waits for.
#[derive(Debug)]
enum Event {
    /// A node printed a line.
    Line { node: u32, text: String },
    /// All nodes were asked for their status.
    Seen(Vec<Option<NodeReport>>),
}

/// Runs a cluster until Ctrl-C or SIGTERM.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let stop = os::stop_signals().map_err(|error| Failure::io("signal handlers", &error))?;
    let layout = Layout::prepare(args)?;
    let fate = if layout.is_temporary() { "removed at the end; --dir keeps one" } else { "kept" };
    say(format_args!(
        "starting {} nodes with {} groups in {} ({fate})",
        args.nodes,
        args.groups,
        layout.dir.display()
    ));
    let mut supervisor = Supervisor::start(args, layout)?;
    let result = supervisor.supervise(&stop);
    say(format_args!(
        "stopping {} nodes",
        supervisor.nodes.iter().filter(|node| node.ended.is_none()).count()
    ));
    let stopped_well = node::stop_all(&mut supervisor.nodes, STOP_PATIENCE);
    supervisor.print_waiting_lines();
    result?;
    if stopped_well {
        say("stopped");
        return Ok(Exit::Done);
    }
    Err(Failure::said(Exit::Failed, "not all nodes stopped cleanly", "their messages are above"))
}

struct Supervisor<'a> {
    args: &'a Args,
    layout: Layout,
    nodes: Vec<NodeProcess>,
    watch: Watch,
    sender: Sender<Event>,
    events: Receiver<Event>,
    is_ready: bool,
    /// When to say next what the start is waiting for.
    waiting_at: Instant,
    /// Nodes to be started again, and when.
    restarts: Vec<(usize, Instant)>,
}

impl<'a> Supervisor<'a> {
    fn start(args: &'a Args, layout: Layout) -> Result<Supervisor<'a>, Failure> {
        let (sender, events) = channel();
        let bootstrap = layout.bootstraps();
        let start = |place| NodeProcess::start(place, bootstrap, &sender);
        let nodes = layout.nodes.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let addresses = layout.nodes.iter().map(|place| place.address()).collect();
        watch::start(addresses, sender.clone())
            .map_err(|error| Failure::io("the watching thread", &error))?;
        let watch = Watch::new(args.groups);
        let waiting_at = os::now() + WAITING_EVERY;
        Ok(Supervisor {
            args,
            layout,
            nodes,
            watch,
            sender,
            events,
            is_ready: false,
            waiting_at,
            restarts: Vec::new(),
        })
    }

    /// Until a stop signal, or until there is nothing left to supervise.
    fn supervise(&mut self, stop: &Receiver<&'static str>) -> Result<(), Failure> {
        loop {
            if let Ok(signal) = stop.try_recv() {
                say(format_args!("{signal}"));
                return Ok(());
            }
            match self.events.recv_timeout(LOOK_EVERY) {
                Ok(Event::Line { node, text }) => note(format_args!("node-{node} | {text}")),
                Ok(Event::Seen(reports)) => self.on_seen(&reports)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.look_at_processes()?;
            self.do_what_is_due(os::now())?;
        }
    }

    fn do_what_is_due(&mut self, now: Instant) -> Result<(), Failure> {
        if !self.is_ready && now >= self.waiting_at {
            self.waiting_at = now + WAITING_EVERY;
            let (led, reached) = (self.watch.led(), self.watch.reached());
            let (nodes, groups) = (self.args.nodes, self.args.groups);
            say(format_args!(
                "waiting: {reached} of {nodes} nodes answer, {led} of {groups} groups have a leader"
            ));
        }
        let (due, later) = std::mem::take(&mut self.restarts).into_iter().partition(|&(_, at)| at <= now);
        self.restarts = later;
        let due: Vec<(usize, Instant)> = due;
        for (at, _) in due {
            say(format_args!("node {}: starting it again", self.nodes[at].place.id));
            self.nodes[at] = NodeProcess::start(&self.layout.nodes[at], false, &self.sender)?;
        }
        Ok(())
    }

    fn on_seen(&mut self, reports: &[Option<NodeReport>]) -> Result<(), Failure> {
        let before = self.watch.reached();
        let told = self.watch.look(reports).cloned();
        if self.is_ready && self.watch.reached() > before {
            say(format_args!("a node is back: {} of {} answer", self.watch.reached(), self.args.nodes));
            self.watch.forget_told();
        }
        let Some(spread) = told else { return Ok(()) };
        say(format_args!("all {} groups have a leader: {}", self.args.groups, show_spread(&spread)));
        if !self.is_ready && self.watch.reached() == self.nodes.len() {
            self.layout.set_started()?;
            self.is_ready = true;
            self.print_how_to_connect();
        }
        Ok(())
    }

    fn look_at_processes(&mut self) -> Result<(), Failure> {
        for at in 0..self.nodes.len() {
            if !self.nodes[at].has_just_ended() {
                continue;
            }
            let node = &self.nodes[at];
            let id = node.place.id;
            let how = node.ended.map(|status| status.to_string()).unwrap_or_default();
            if !self.is_ready {
                let exit = exit_of(node.ended.and_then(|status| status.code()));
                let what = format!("node {id} ended before the cluster was ready ({how})");
                self.print_waiting_lines();
                return Err(Failure::said(exit, what, "its messages are above"));
            }
            say(format_args!("node {id} (pid {}) ended: {how}", node.pid()));
            self.watch.forget_told();
            if self.args.restart {
                self.restarts.push((at, os::now() + RESTART_AFTER));
            } else {
                say(format_args!(
                    "  to start it again: logdrive serve --config {}",
                    node.place.config.display()
                ));
            }
        }
        if self.restarts.is_empty() && self.nodes.iter().all(|node| node.ended.is_some()) {
            return Err(Failure::said(Exit::Failed, "all nodes have ended", "their messages are above"));
        }
        Ok(())
    }

    /// What the nodes printed and nobody read yet.
    fn print_waiting_lines(&mut self) {
        // The threads that read the lines may be a moment behind the end of the process.
        while let Ok(event) = self.events.recv_timeout(LOOK_EVERY) {
            match event {
                Event::Line { node, text } => note(format_args!("node-{node} | {text}")),
                Event::Seen(_) => return,
            }
        }
    }

    fn print_how_to_connect(&self) {
        let port = self.layout.nodes[0].clients;
        let addresses: Vec<String> = self.layout.nodes.iter().map(|place| place.address()).collect();
        say("");
        say(format_args!("  redis-cli -c -p {port}"));
        say(format_args!("  redis-benchmark --cluster -p {port} -t set,get -P 16 -c 50 -n 500000 -d 128"));
        say(format_args!("  logdrive status --addr {}", addresses[0]));
        say("");
        say(format_args!("ready: {} (Ctrl-C stops all nodes)", addresses.join(" ")));
    }
}

fn show_spread(spread: &Spread) -> String {
    let show = |(at, leaders): (usize, &Option<u64>)| match leaders {
        Some(leaders) => format!("node {} leads {leaders}", at + 1),
        None => format!("node {} is out of reach", at + 1),
    };
    spread.iter().enumerate().map(show).collect::<Vec<_>>().join(", ")
}

/// A node's exit code is passed on, so that a script sees why the cluster did not start.
fn exit_of(code: Option<i32>) -> Exit {
    [Exit::Refused, Exit::Directory, Exit::Machine]
        .into_iter()
        .find(|exit| code == Some(*exit as i32))
        .unwrap_or(Exit::Failed)
}
