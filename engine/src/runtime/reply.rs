//! One value, once, from a core to a future on any thread and under any async runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

struct State<T> {
    value: Option<T>,
    closed: bool,
    waker: Option<Waker>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
}

impl<T> Shared<T> {
    fn with<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R {
        // The closures below cannot panic half-way: a poisoned state is still a whole one.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Gives the value. Dropped without, the receiver learns that none will come.
pub(crate) struct Reply<T> {
    shared: Arc<Shared<T>>,
}

/// Waits for the value; `None` if the core went away. May be dropped at any time.
pub(crate) struct Waiting<T> {
    shared: Arc<Shared<T>>,
}

pub(crate) fn reply<T>() -> (Reply<T>, Waiting<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State { value: None, closed: false, waker: None }) });
    (Reply { shared: shared.clone() }, Waiting { shared })
}

impl<T> Reply<T> {
    pub(crate) fn send(self, value: T) {
        self.shared.with(|state| state.value = Some(value));
        // Dropping wakes.
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let waker = self.shared.with(|state| {
            state.closed = true;
            state.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Waiting<T> {
    /// Blocks this thread until the value is there. Not on an executor's thread.
    pub(crate) fn wait(self) -> Option<T> {
        futures_lite::future::block_on(self)
    }
}

impl<T> Future for Waiting<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.shared.with(|state| {
            if state.closed {
                return Poll::Ready(state.value.take());
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use super::reply;

    #[test]
    fn a_value_crosses_threads_and_a_dropped_reply_ends_the_wait() {
        let (sender, waiting) = reply();
        let thread = std::thread::spawn(move || sender.send(7));
        assert_eq!(waiting.wait(), Some(7));
        thread.join().unwrap();

        let (sender, waiting) = reply::<u32>();
        let thread = std::thread::spawn(move || drop(sender));
        assert_eq!(waiting.wait(), None);
        thread.join().unwrap();

        let (sender, waiting) = reply();
        drop(waiting);
        sender.send(7);
    }
}
