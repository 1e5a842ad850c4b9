//! The tasks of one core. glommio drops detached tasks without a word when an executor ends, or leaks them when they wait for
//! something: here every task is known, so that a stop can cancel all of them and what they hold is really dropped.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use glommio::{Task, TaskQueueHandle};

#[derive(Default)]
pub(crate) struct TaskSet {
    slots: RefCell<Slots>,
    closed: Cell<bool>,
}

#[derive(Default)]
struct Slots {
    tasks: Vec<Option<Task<()>>>,
    free: Vec<usize>,
}

impl TaskSet {
    /// Runs a task on this executor, later in this turn; never at once, so that callers may hold borrows. Nothing is run once
    /// the set is cancelled.
    pub(crate) fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        if self.closed.get() {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.tasks.push(None);
            slots.tasks.len() - 1
        });
        let set = Rc::downgrade(self);
        let task = async move {
            future.await;
            if let Some(set) = set.upgrade() {
                set.finished(slot);
            }
        };
        // The default queue exists as long as its executor does.
        slots.tasks[slot] = glommio::spawn_local_into(task, TaskQueueHandle::default()).ok();
    }

    fn finished(&self, slot: usize) {
        let mut slots = self.slots.borrow_mut();
        if let Some(task) = slots.tasks[slot].take() {
            task.detach();
        }
        slots.free.push(slot);
    }

    /// Cancels every task and waits until each is dropped with what it holds. Not to be called from a task of the set.
    pub(crate) async fn cancel_all(&self) {
        self.closed.set(true);
        loop {
            let tasks: Vec<Task<()>> =
                self.slots.borrow_mut().tasks.iter_mut().filter_map(Option::take).collect();
            if tasks.is_empty() {
                return;
            }
            for task in tasks {
                task.cancel().await;
            }
        }
    }
}
