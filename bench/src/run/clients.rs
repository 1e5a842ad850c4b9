//! The clients of one core: each has one proposal in flight, to a random group among those that its node leads.
//!
//! They run on the node's own executor, through the same batched API as the Redis front door: their cost is inside every figure.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use anyhow::Result;
use logdrive::api::{Completions, Error, Retry};
use logdrive::runtime::{CoreClient, Port};
use logdrive_shard::{GroupId, Random};

use super::control::{Control, CoreResult, Phase, Refusals};
use super::soak::MINUTE_NANOS;
use crate::cli::MachineKind;
use crate::clock;
use crate::latency::Latencies;
use crate::machine::kv_command;
use crate::payload::Payloads;

/// Between two looks at the phase and at proposals that wait to be sent again.
const TICK: Duration = Duration::from_millis(5);
/// The table of led groups is made anew at most so often, nanoseconds: with many groups that takes a while.
const REFRESH_NANOS: u64 = 5_000_000;
/// A proposal that was refused because its node does not lead the group is sent again after this pause, nanoseconds.
const REPICK_NANOS: u64 = 1_000_000;
const SECOND_NANOS: u64 = 1_000_000_000;

/// What the clients of one core are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientSettings {
    /// Clients on this core.
    pub(super) clients: u32,
    pub(super) payload: u32,
    pub(super) seed: u64,
    /// Counted over all cores of all nodes.
    pub(super) core: u16,
    /// Payloads set keys of the key-value machine.
    pub(super) machine: MachineKind,
    /// Latencies are wanted minute by minute as well.
    pub(super) soak: bool,
}

/// Runs the clients of one core until their last proposal is answered after the load ended.
pub(super) async fn run(client: CoreClient, settings: ClientSettings, control: Arc<Control>) {
    let driver = match Driver::new(client, settings, Arc::clone(&control)) {
        Ok(driver) => Rc::new(driver),
        Err(error) => return control.fail(format!("{error:#}")),
    };
    while control.phase() == Phase::Waiting {
        if driver.client.is_stopping() {
            return;
        }
        driver.client.sleep(TICK).await;
    }
    driver.start();
    let answers = Rc::clone(&driver);
    driver.client.spawn(async move { answers.take_answers().await });
    loop {
        driver.client.sleep(TICK).await;
        if control.phase() == Phase::Drain && driver.is_drained() || driver.client.is_stopping() {
            break;
        }
        driver.send_again();
    }
    driver.finish();
}

struct Driver {
    client: CoreClient,
    port: Port,
    settings: ClientSettings,
    control: Arc<Control>,
    state: RefCell<State>,
    finished: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

struct State {
    /// When each client's proposal was first sent.
    started: Vec<u64>,
    /// Clients whose proposal waits to be sent again, and when that is.
    paused: Vec<(u32, u64)>,
    outstanding: u64,
    /// Groups that this node leads.
    led: Vec<GroupId>,
    led_epoch: u64,
    led_refreshed: u64,
    random: Random,
    payloads: Payloads,
    /// A command of the key-value machine on its way.
    command: Vec<u8>,
    latencies: Latencies,
    /// Of a soak: those of this minute.
    minute: Option<(usize, Latencies)>,
    per_second: Vec<u64>,
    acknowledged: u64,
    refusals: Refusals,
}

impl Driver {
    fn new(client: CoreClient, settings: ClientSettings, control: Arc<Control>) -> Result<Driver> {
        let port = client.open_port();
        let seed = settings.seed.wrapping_add(u64::from(settings.core));
        let state = State {
            started: vec![0; settings.clients as usize],
            paused: Vec::new(),
            outstanding: 0,
            led: Vec::new(),
            led_epoch: u64::MAX,
            led_refreshed: 0,
            random: Random::new(seed),
            payloads: Payloads::new(seed, settings.core, settings.payload as usize),
            command: Vec::new(),
            latencies: Latencies::new()?,
            minute: if settings.soak { Some((0, Latencies::new()?)) } else { None },
            per_second: Vec::new(),
            acknowledged: 0,
            refusals: Refusals::default(),
        };
        let (state, finished, waker) = (RefCell::new(state), Cell::new(false), RefCell::new(None));
        Ok(Driver { client, port, settings, control, state, finished, waker })
    }

    fn start(&self) {
        let now = clock::now_nanos();
        let state = &mut *self.state.borrow_mut();
        for client in 0..self.settings.clients {
            self.propose_new(state, client, now);
        }
        self.publish(state);
    }

    /// Takes answers until the run is over.
    async fn take_answers(&self) {
        let mut answers = Completions::default();
        loop {
            let more = poll_fn(|context| {
                if self.finished.get() {
                    return Poll::Ready(false);
                }
                if self.port.poll_answers(context, &mut answers).is_ready() {
                    return Poll::Ready(true);
                }
                let mut waker = self.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|w| w.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            });
            if !more.await {
                return;
            }
            self.on_answers(&answers);
        }
    }

    fn on_answers(&self, answers: &Completions) {
        // Read once for all answers of a turn, and before the next proposals are sent: both ends are counted in the
        // latency's disfavour.
        let now = clock::now_nanos();
        let window = self.control.window();
        let measured = window.contains(&now);
        let load = self.control.phase() == Phase::Load;
        let state = &mut *self.state.borrow_mut();
        state.outstanding -= answers.len() as u64;
        if measured {
            self.begin_minute(state, ((now - window.start) / MINUTE_NANOS) as usize);
        }
        let mut acknowledged = 0;
        for (answer, _) in answers.iter() {
            let client = answer.token as u32;
            match answer.result {
                Ok(_) => {
                    acknowledged += 1;
                    if measured {
                        let nanos = now.saturating_sub(state.started[client as usize]);
                        state.latencies.record(nanos);
                        if let Some((_, latencies)) = &mut state.minute {
                            latencies.record(nanos);
                        }
                    }
                    if load {
                        self.propose_new(state, client, now);
                    }
                }
                Err(error) => self.on_refusal(state, client, error, now, load),
            }
        }
        state.acknowledged += acknowledged;
        if measured {
            let second = ((now - window.start) / SECOND_NANOS) as usize;
            if state.per_second.len() <= second {
                state.per_second.resize(second + 1, 0);
            }
            state.per_second[second] += acknowledged;
        }
        self.publish(state);
    }

    /// Of a soak: hands in the minute that is over.
    fn begin_minute(&self, state: &mut State, minute: usize) {
        if let Some((current, latencies)) = &mut state.minute
            && *current != minute
        {
            self.control.add_minute(*current, latencies);
            *current = minute;
            latencies.clear();
        }
    }

    #[cold]
    fn on_refusal(&self, state: &mut State, client: u32, error: Error, now: u64, load: bool) {
        match error {
            Error::Busy { .. } => state.refusals.busy += 1,
            Error::NotLeader { .. } => state.refusals.not_leader += 1,
            Error::Indeterminate | Error::Timeout => {
                state.refusals.unknown += 1;
                // It had its answer, such as it is; what follows is a new proposal.
                if load {
                    self.propose_new(state, client, now);
                }
                return;
            }
            Error::OutOfSpace { .. } => {
                state.refusals.out_of_space += 1;
                self.control.set_outgrown(now);
            }
            // The main thread stops the nodes only after the drain, or when the run failed.
            Error::Stopped => return,
            other => self.control.fail(format!("a proposal was answered with: {other}")),
        }
        if load {
            let pause = match error.retry() {
                Retry::After(pause) => pause.as_nanos() as u64,
                _ => REPICK_NANOS,
            };
            state.paused.push((client, now + pause));
        }
    }

    /// Sends proposals again whose pause is over; their latency counts from the first time.
    fn send_again(&self) {
        let state = &mut *self.state.borrow_mut();
        if state.paused.is_empty() {
            return;
        }
        let now = clock::now_nanos();
        let load = self.control.phase() == Phase::Load;
        let mut paused = std::mem::take(&mut state.paused);
        paused.retain(|&(client, due)| {
            let send = load && due <= now;
            if send {
                self.propose(state, client, now);
            }
            load && !send
        });
        // Without a led group, sending has put clients back into the list.
        state.paused.append(&mut paused);
        self.publish(state);
    }

    fn propose_new(&self, state: &mut State, client: u32, now: u64) {
        state.started[client as usize] = now;
        self.propose(state, client, now);
    }

    fn propose(&self, state: &mut State, client: u32, now: u64) {
        let epoch = self.client.leadership_epoch();
        if epoch != state.led_epoch && (state.led.is_empty() || now >= state.led_refreshed + REFRESH_NANOS) {
            self.refresh_led(state, epoch, now);
        }
        if state.led.is_empty() {
            state.paused.push((client, now + REPICK_NANOS));
            return;
        }
        let group = state.led[state.random.below(state.led.len() as u64) as usize];
        state.outstanding += 1;
        match self.settings.machine {
            MachineKind::Digest => self.port.propose(client.into(), group, state.payloads.next()),
            MachineKind::Kv => {
                kv_command(state.payloads.next(), state.random.next_u64(), &mut state.command);
                self.port.propose(client.into(), group, &state.command);
            }
        }
    }

    #[cold]
    fn refresh_led(&self, state: &mut State, epoch: u64, now: u64) {
        let me = self.client.node();
        state.led.clear();
        state.led.extend((1..=self.client.groups()).map(GroupId).filter(|&g| self.client.leader_of(g) == me));
        state.led_epoch = epoch;
        state.led_refreshed = now;
    }

    fn publish(&self, state: &State) {
        let counters = &self.control.cores[usize::from(self.settings.core)];
        counters.acknowledged.store(state.acknowledged, Ordering::Relaxed);
        counters.outstanding.store(state.outstanding, Ordering::Relaxed);
    }

    fn is_drained(&self) -> bool {
        self.state.borrow().outstanding == 0
    }

    /// Hands over what was seen, and ends the task that takes answers.
    fn finish(&self) {
        let state = &mut *self.state.borrow_mut();
        self.begin_minute(state, usize::MAX);
        self.control.push_result(CoreResult {
            latencies: state.latencies.clone(),
            per_second: std::mem::take(&mut state.per_second),
            acknowledged: state.acknowledged,
            refusals: state.refusals,
        });
        self.finished.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
