//! Wake-ups between the tasks of one executor. Not `Send`, no atomics.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// "There is something to do", for one waiting task. Notifying twice before the task ran is the same as once.
#[derive(Default)]
pub(crate) struct Notify {
    set: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Notify {
    pub(crate) fn notify(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waiter.take()
        {
            waker.wake();
        }
    }

    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.set.replace(false) {
            return Poll::Ready(());
        }
        self.waiter.set(Some(context.waker().clone()));
        Poll::Pending
    }

    pub(crate) async fn notified(&self) {
        poll_fn(|context| self.poll(context)).await;
    }
}

/// Holds any number of tasks back until it is opened.
#[derive(Default)]
pub(crate) struct Gate {
    waiters: RefCell<Vec<Waker>>,
}

impl Gate {
    /// Lets all who wait go on.
    pub(crate) fn open(&self) {
        for waker in self.waiters.take() {
            waker.wake();
        }
    }

    /// Waits while `closed` says so; asked again each time the gate is opened.
    pub(crate) async fn wait_while(&self, closed: impl Fn() -> bool) {
        poll_fn(|context| {
            if !closed() {
                return Poll::Ready(());
            }
            self.waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Lets every other ready task of this executor run once.
pub(crate) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
