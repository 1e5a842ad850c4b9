//! What is simulated: sizes, and which mix of troubles. Together with the seed that decides everything.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::clock::{MILLISECOND, Nanos};
use super::faults::{Fault, FaultSet};
use super::listing::FaultList;

/// Nodes, at most.
pub const NODES_MAX: u32 = 9;
/// Cores of a node, at most.
pub const CORES_MAX: u32 = 4;
/// Groups, at most.
pub const GROUPS_MAX: u32 = 1_000;
/// Clients, at most.
pub const CLIENTS_MAX: u32 = 10_000;

/// Which troubles a run is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Profile {
    /// A little of everything.
    #[default]
    Default,
    /// Mostly disks, and power.
    Disk,
    /// Mostly the network.
    Network,
    /// Mostly members that come and go, and leaders that move.
    Membership,
    /// Many groups on many nodes and cores, few troubles.
    Scale,
    /// Sizes and kinds of trouble drawn from the seed.
    Swarm,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 6] = [
        Profile::Default,
        Profile::Disk,
        Profile::Network,
        Profile::Membership,
        Profile::Scale,
        Profile::Swarm,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Disk => "disk",
            Profile::Network => "network",
            Profile::Membership => "membership",
            Profile::Scale => "scale",
            Profile::Swarm => "swarm",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which state machine the groups have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MachineKind {
    /// A counter and a digest.
    #[default]
    Register,
    /// The key-value machine of the product, behind the counter.
    Kv,
}

impl MachineKind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            MachineKind::Register => "register",
            MachineKind::Kv => "kv",
        }
    }
}

/// What a run may be larger or smaller in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Size {
    Nodes,
    Cores,
    Groups,
    Clients,
}

impl Size {
    /// All of them, those first that make a run smallest.
    pub const ALL: [Size; 4] = [Size::Nodes, Size::Cores, Size::Groups, Size::Clients];

    /// The least that makes sense.
    pub fn least(self) -> u32 {
        match self {
            Size::Nodes | Size::Cores | Size::Groups => 1,
            Size::Clients => 0,
        }
    }
}

/// One run: everything that follows from it follows from these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The mix of troubles.
    pub profile: Profile,
    /// Nodes, `1..=NODES_MAX`.
    pub nodes: u32,
    /// Cores of each node, `1..=CORES_MAX`.
    pub cores: u32,
    /// Groups, `1..=GROUPS_MAX`.
    pub groups: u32,
    /// Clients.
    pub clients: u32,
    /// How long troubles go on, in milliseconds of the simulated clock. Then everything must heal.
    pub ticks: u64,
    /// State machine.
    pub machine: MachineKind,
    /// These faults instead of those that the seed makes.
    pub list: Option<FaultList>,
    /// Only these of the faults; `None`: all.
    pub only: Option<FaultSet>,
    /// Sizes that differ from those the profile and the seed give; they belong to the command that repeats the run.
    pub overrides: Vec<String>,
}

/// The simulated time of a run's troubles if nobody says otherwise, in milliseconds.
pub const TICKS_DEFAULT: u64 = 20_000;

impl Plan {
    /// The run of a profile and a seed.
    pub fn new(profile: Profile, seed: u64) -> Plan {
        let mut random = super::random::stream(seed, super::random::Purpose::Shape, 0);
        let mut pick = |choices: &[u32]| choices[random.below(choices.len() as u64) as usize];
        let (nodes, cores, groups) = match profile {
            Profile::Default | Profile::Disk | Profile::Network => (3, 2, 32),
            Profile::Membership => (pick(&[4, 5, 5, 6]), 2, 12),
            Profile::Scale => (pick(&[3, 5, 7, 9]), pick(&[2, 3, 4]), pick(&[200, 500, 1_000])),
            Profile::Swarm => (pick(&[1, 3, 3, 4, 5, 5, 7]), pick(&[1, 1, 2, 3]), pick(&[1, 3, 8, 24])),
        };
        let machine = match pick(&[0, 1]) {
            0 => MachineKind::Register,
            _ => MachineKind::Kv,
        };
        let clients = match profile {
            Profile::Scale => 64,
            Profile::Swarm => pick(&[1, 4, 16, 40]),
            _ => 12,
        };
        let (list, only, overrides, ticks) = (None, None, Vec::new(), TICKS_DEFAULT);
        Plan { seed, profile, nodes, cores, groups, clients, ticks, machine, list, only, overrides }
    }

    /// The end of the troubles, on the world's clock.
    pub fn faults_end(&self) -> Nanos {
        START + self.ticks * MILLISECOND
    }

    /// A size other than the one that profile and seed give, as an option of the command line says it.
    pub fn override_size(&mut self, size: Size, value: u32) {
        let (name, field) = match size {
            Size::Nodes => ("--nodes", &mut self.nodes),
            Size::Cores => ("--cores", &mut self.cores),
            Size::Groups => ("--groups", &mut self.groups),
            Size::Clients => ("--clients", &mut self.clients),
        };
        *field = value;
        self.overrides.retain(|option| !option.starts_with(name));
        self.overrides.push(format!("{name} {value}"));
    }

    /// One of the sizes.
    pub fn size(&self, size: Size) -> u32 {
        match size {
            Size::Nodes => self.nodes,
            Size::Cores => self.cores,
            Size::Groups => self.groups,
            Size::Clients => self.clients,
        }
    }

    /// The same run with its faults in a file.
    pub fn with_list(&self, path: &Path, faults: &[Fault]) -> Plan {
        let list = FaultList { path: path.to_owned(), faults: faults.into() };
        Plan { list: Some(list), only: None, ..self.clone() }
    }

    /// The command that repeats the run.
    pub fn command(&self) -> String {
        let Plan { seed, profile, ticks, .. } = self;
        let mut command = format!("logdrive sim --seed {seed} --profile {profile}");
        if *ticks != TICKS_DEFAULT {
            command.push_str(&format!(" --ticks {ticks}"));
        }
        for option in &self.overrides {
            command.push(' ');
            command.push_str(option);
        }
        if let Some(list) = &self.list {
            command.push_str(&format!(" --faults {}", list.path.display()));
        }
        if let Some(only) = &self.only {
            command.push_str(&format!(" --only-faults {only}"));
        }
        command
    }
}

/// When the world begins: not at 0, so that nothing can take "never" for "at the beginning".
pub const START: Nanos = 1_000 * MILLISECOND;

/// A range of seeds as on the command line: `A..B`, its end excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub std::ops::Range<u64>);

/// Not a range of seeds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected two numbers like 1..1000, the first one smaller, found `{text}`")]
pub struct BadSeeds {
    text: String,
}

impl FromStr for Seeds {
    type Err = BadSeeds;

    fn from_str(text: &str) -> Result<Seeds, BadSeeds> {
        let bad = || BadSeeds { text: text.to_owned() };
        let (from, to) = text.split_once("..").ok_or_else(bad)?;
        let (from, to) = (from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
        if from < to { Ok(Seeds(from..to)) } else { Err(bad()) }
    }
}
